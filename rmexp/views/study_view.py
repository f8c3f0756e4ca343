"""What there is to see of a study: Optuna's storage and the trials' files, read together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.drift import CONFIG
from rmexp.sweep.failures import FailureRow, failure_rows
from rmexp.sweep.leases import gone
from rmexp.sweep.ledger import (
    CONTROLLER,
    INTERRUPTED,
    STATES,
    WARM_START,
    WITHDRAWN,
    Ledger,
    state_of,
)
from rmexp.sweep.study import StudyFolder, front
from rmexp.trial.record import TrialRecord


@dataclass(frozen=True)
class TrialView:
    """One trial as Optuna's storage has it.

    Attributes:
        number: in the study.
        state: one of :data:`rmexp.sweep.ledger.STATES`; a trial that its dead controller left
            behind is ``interrupted``.
        values: the objectives; empty unless complete.
        params: the searched keys.
        curve: epoch to the objective reported after it.
        reason: why it was pruned or failed.
        metrics: the trial's flat numbers.
        seconds: from start to end; None while it runs.
        directory: of its record and log; None where it has none.
        duplicate_of: the trial whose result was copied.
    """

    number: int
    state: str
    values: tuple[float, ...]
    params: Mapping[str, Any]
    curve: Mapping[int, float]
    reason: str
    metrics: Mapping[str, float]
    seconds: float | None
    directory: Path | None
    duplicate_of: int | None

    def record(self) -> TrialRecord | None:
        """The trial's record; None before it has ended, and for a lost one."""
        if self.directory is None:
            return None
        try:
            return TrialRecord.read(self.directory)
        except UserError:
            return None

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as the report embeds it."""
        return {
            "number": self.number,
            "state": self.state,
            "values": list(self.values),
            "params": dict(self.params),
            "curve": {str(epoch): value for epoch, value in self.curve.items()},
            "reason": self.reason,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class StudyView:
    """A study at one moment.

    Attributes:
        folder: of the study.
        objectives: their names.
        maximize: for each objective, whether more is better.
        trials: by number.
        log_keys: the keys that were searched on a logarithmic scale.
        best: numbers of the best trial, or of the Pareto front; empty before one is complete.
        target: finished trials wanted; None where the study does not say.
        failures: one row a kind.
        fixed: the config keys, dotted, that are the same for all trials.
    """

    folder: StudyFolder
    objectives: tuple[str, ...]
    maximize: tuple[bool, ...]
    trials: tuple[TrialView, ...]
    log_keys: frozenset[str]
    best: tuple[int, ...]
    target: int | None
    failures: tuple[FailureRow, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name

    @property
    def keys(self) -> list[str]:
        """The searched keys, in the order in which trials have them."""
        return list(dict.fromkeys(key for trial in self.trials for key in trial.params))

    def counts(self) -> dict[str, int]:
        """Trials by state, every state named."""
        found = Counter(trial.state for trial in self.trials)
        return {state: found[state] for state in STATES}

    def trial(self, number: int) -> TrialView:
        """The trial of that number; UserError where there is none."""
        for trial in self.trials:
            if trial.number == number:
                return trial
        raise UserError(f"study '{self.name}' has no trial {number}")

    def epochs_of(self, trial: TrialView) -> int | None:
        """Epochs of a trial over all its seeds; None where nothing tells."""
        epochs = trial.params.get("epochs", self.fixed.get("epochs"))
        return None if epochs is None else int(epochs) * max(1, len(self.fixed.get("seeds") or ()))

    def of_state(self, *states: str) -> list[TrialView]:
        """The trials in any of these states."""
        return [trial for trial in self.trials if trial.state in states]


def view_study(study: optuna.Study, folder: StudyFolder) -> StudyView:
    """Read a study, also while it runs; nothing is written."""
    frozen = [
        # Points of other studies and withdrawn claims are no trials of this one.
        trial
        for trial in study.get_trials(deepcopy=False)
        if not {WARM_START, WITHDRAWN} & trial.user_attrs.keys()
    ]
    ended = gone(study, folder.locks)
    trials = tuple(_trial(t, folder, ended) for t in sorted(frozen, key=lambda t: t.number))
    if len(study.directions) == 1:
        ledger = Ledger(study)
        ledger.refresh()
        found = [] if ledger.best is None else [ledger.best]
    else:
        found = front(study)
    return StudyView(
        folder=folder,
        objectives=_objective_names(study, trials),
        maximize=tuple(d == StudyDirection.MAXIMIZE for d in study.directions),
        trials=trials,
        log_keys=frozenset(
            k for t in frozen for k, d in t.distributions.items() if getattr(d, "log", False)
        ),
        best=tuple(sorted(t.number for t in found)),
        target=study.user_attrs.get("target"),
        failures=tuple(failure_rows(frozen)),
        fixed=study.user_attrs.get(CONFIG, {}),
    )


def stored_test(trial: TrialView) -> dict[str, Any] | None:
    """What ``rmexp best`` measured on the test part; None where it has not been measured."""
    if trial.directory is None:
        return None
    try:
        return dict(json.loads((trial.directory / "test.json").read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError):
        return None


def _trial(trial: FrozenTrial, folder: StudyFolder, ended: set[str]) -> TrialView:
    attrs = trial.user_attrs
    directory = attrs.get("directory")
    complete = trial.state == TrialState.COMPLETE
    state = state_of(trial)
    if state == "running" and attrs.get(CONTROLLER) in ended:
        state = INTERRUPTED
    return TrialView(
        number=trial.number,
        state=state,
        values=tuple(trial.values) if complete and trial.values else (),
        params=trial.params,
        curve=trial.intermediate_values,
        reason=str(attrs.get("reason", "")),
        metrics=attrs.get("metrics", {}),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        directory=folder.root / directory if directory else None,
        duplicate_of=attrs.get("duplicate_of"),
    )


def _objective_names(study: optuna.Study, trials: tuple[TrialView, ...]) -> tuple[str, ...]:
    if study.metric_names:
        return tuple(study.metric_names)
    if len(study.directions) > 1:
        return tuple(f"objective {i + 1}" for i in range(len(study.directions)))
    for trial in trials:
        record = trial.record()
        if record is not None:
            return (str(record.config["evaluation"]["objective"]),)
    return ("objective",)
