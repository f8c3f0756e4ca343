"""What a study learns from others: their finished trials, added for the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.ledger import WARM_START
from rmexp.sweep.outcome import guard_values
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.space import Space
from rmexp.sweep.study import StudyFolder, finished_trials, load_study


def learn_from_others(
    study: optuna.Study,
    folder: StudyFolder,
    config: SweepConfig,
    space: Space,
    guards: Sequence[str] = (),
) -> list[str]:
    """Add what ``sweep.warm_start`` names; what was added at an earlier start is not added again.

    Args:
        study: the study that learns.
        folder: of it; the others lie beside it.
        config: of the sweep.
        space: what is searched.
        guards: ``evaluation.guards`` of the study's trials.

    Returns:
        What was taken from whom, in words.

    Raises:
        UserError: naming a study that is not there, that was searched or measured otherwise, or
            that has nothing to learn from.
    """
    if not config.warm_start:
        return []
    output_dir = folder.root.parent.parent
    # All are looked at before any trial is added.
    others = {name: load_study(output_dir, name) for name in config.warm_start}
    taken = {name: _taken(name, other, config, space, guards) for name, other in others.items()}
    known = {t.user_attrs.get(WARM_START) for t in study.get_trials(deepcopy=False)}
    said = []
    for name, trials in taken.items():
        # One by one, each whole: a kill in between leaves the rest to the next start.
        new = {source: t for t in trials if (source := f"{name}/{t.number}") not in known}
        for source, trial in new.items():
            study.add_trial(_copy(source, trial, space, guards))
        if new:
            outside = len(finished_trials(others[name])) - len(trials)
            rest = f"; {outside} lie outside this space" if outside else ""
            said.append(f"warm start: {len(new)} trials of study '{name}' added{rest}")
    return said


def _taken(
    name: str, other: optuna.Study, config: SweepConfig, space: Space, guards: Sequence[str]
) -> list[FrozenTrial]:
    """The trials of another study that are points of this space."""
    if [d.name.lower() for d in other.directions] != config.directions:
        raise UserError(f"sweep.warm_start: study '{name}' has other directions")
    finished = finished_trials(other)
    inside = [trial for trial in finished if space.contains(trial.params)]
    if not inside:
        raise UserError(
            f"sweep.warm_start: none of the {len(finished)} finished trials of study '{name}' lies "
            "in this space; leave it out, or search the same keys"
        )
    for trial in inside if guards else ():
        measured = guard_values(trial.user_attrs.get("metrics", {}))
        if trial.state == TrialState.COMPLETE and measured.keys() != set(guards):
            raise UserError(
                f"sweep.warm_start: trial {trial.number} of study '{name}' was measured with the "
                f"guards {sorted(measured) or 'none'}; leave the study out, or give it the same "
                "evaluation.guards"
            )
    return inside


def _copy(source: str, trial: FrozenTrial, space: Space, guards: Sequence[str]) -> FrozenTrial:
    """A trial as the sampler is to see it: it counts as none of the study's own."""
    measured = guard_values(trial.user_attrs.get("metrics", {}))
    # As Optuna's samplers write down what their constraints_func returns.
    broken: dict[str, Any] = {"constraints": [measured[g] for g in guards if g in measured]}
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions={d.key: d.distribution for d in space.dimensions if d.key in trial.params},
        intermediate_values=trial.intermediate_values,
        user_attrs={WARM_START: source},
        system_attrs=broken if guards else {},
    )
