"""Confirm: the best trials again on fresh seeds, measured on pairs the search never used.

The search's winner is the luckiest of many. Here the top trials train anew from their stored
configs, each on the same seeds, and are compared pair by pair on the test part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from rmexp.errors import UserError
from rmexp.statistics import SHARE, Interval, bootstrap_crossed, of_differences
from rmexp.sweep.job import Executor
from rmexp.sweep.rerun import OnDrift, refuse_drift
from rmexp.sweep.seed_runs import OnEvent, fresh_seeds, run_seeds
from rmexp.sweep.study import StudyFolder, front, kept_trials, nothing_to_choose
from rmexp.trial.record import TrialRecord, write_json
from rmexp.trial.schema import TrialConfig

FILE_NAME = "confirmation.json"
FORMAT = 1
# Fewer cannot tell two trials apart by the signed-rank test.
LEAST_SEEDS = 6


@dataclass(frozen=True)
class ConfirmedTrial:
    """One of the confirmed trials.

    Attributes:
        number: of the trial.
        searched: the value the search saw (its first objective).
        accuracy: mean test accuracy over seeds and pairs.
        by_seed: test accuracy of each seed.
        objective: the trial's objective on the test pairs, mean over seeds; None where it is not
            a formula over what is measured there.
        behind: accuracy of the first minus this one's, paired; None for the first.
        not_separable_from: trials, of those ranked above, whose paired interval covers 0.
        wilcoxon: p of the signed-rank test of :func:`signed_rank` against the first, over the
            seeds; None for the first, and below six seeds.
    """

    number: int
    searched: float
    accuracy: Interval
    by_seed: tuple[float, ...]
    objective: float | None
    behind: Interval | None
    not_separable_from: tuple[int, ...]
    wilcoxon: float | None = None

    @property
    def verdict(self) -> str:
        """What the paired intervals say, in words."""
        if self.behind is None:
            return "first"
        if not self.not_separable_from:
            return "worse than all above"
        return "not separable from trial " + ", ".join(map(str, self.not_separable_from))


@dataclass(frozen=True)
class Confirmation:
    """The confirmed trials, best first.

    Attributes:
        study: its name.
        seeds: the fresh seeds, the same for each trial.
        pairs: test pairs measured.
        ranking: by mean test accuracy.
    """

    study: str
    seeds: tuple[int, ...]
    pairs: int
    ranking: tuple[ConfirmedTrial, ...]

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as ``confirmation.json`` holds it."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Confirmation:
        """The inverse of :meth:`to_plain`."""
        ranking = [
            ConfirmedTrial(
                number=row["number"],
                searched=row["searched"],
                accuracy=Interval(**row["accuracy"]),
                by_seed=tuple(row["by_seed"]),
                objective=row["objective"],
                behind=None if row["behind"] is None else Interval(**row["behind"]),
                not_separable_from=tuple(row["not_separable_from"]),
                wilcoxon=row.get("wilcoxon"),
            )
            for row in plain["ranking"]
        ]
        return cls(plain["study"], tuple(plain["seeds"]), plain["pairs"], tuple(ranking))


def confirm(
    study: optuna.Study,
    folder: StudyFolder,
    executor: Executor,
    *,
    top: int,
    seeds: int,
    on_drift: OnDrift = "refuse",
    on_event: OnEvent = lambda event: None,
) -> Confirmation:
    """Run the top trials on fresh seeds and rank them; what has finished is not run again.

    Args:
        study: with complete trials; one with several objectives gives trials of its front.
        folder: of the study; the runs go below ``confirm/``, the result to ``confirmation.json``.
        executor: runs them; closed at the end.
        top: how many trials.
        seeds: how many seeds, two or more.
        on_drift: what to do where data, rules, rater, model, code or versions have changed.
        on_event: told what happens.

    Raises:
        DriftError: something has changed and ``on_drift`` is refuse; it is named.
        UserError: no trial is complete, one has no record, a run failed, or the test pairs are no
            longer those of the search.
    """
    if seeds < 2:
        raise UserError("--seeds: give 2 or more; one seed says nothing about other seeds")
    chosen = top_trials(study, top)
    numbers = [trial.number for trial in chosen]
    records = {n: TrialRecord.read(folder.trial(n)) for n in numbers}
    for number, record in records.items():
        for line in refuse_drift(folder, number, record, on_drift):
            on_event(f"trial {number}: drift: {line}")
    configs = {n: record.trial_config for n, record in records.items()}
    fresh = fresh_seeds([seed for c in configs.values() for seed in c.all_seeds], seeds)
    runs = run_seeds(folder, configs, fresh, executor, on_event=on_event)
    result = _ranked(study.study_name, chosen, configs, fresh, runs)
    write_json(folder.root / FILE_NAME, result.to_plain())
    return result


def read_confirmation(folder: StudyFolder) -> Confirmation | None:
    """The study's confirmation; None where there is none."""
    path = folder.root / FILE_NAME
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not a confirmation: {error.msg}") from error
    if plain.get("format") != FORMAT:
        raise UserError(f"{path}: of another format; run rmexp confirm {folder.name} again")
    return Confirmation.from_plain(plain)


def top_trials(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """The best trials that keep the guards, best first, without copies of the same point.

    Raises:
        UserError: no such trial is complete, or ``top`` is below 1.
    """
    if top < 1:
        raise UserError("--top: give 1 or more")
    candidates = front(study) if len(study.directions) > 1 else kept_trials(study)
    own = [t for t in candidates if "duplicate_of" not in t.user_attrs]
    if not own:
        raise UserError(nothing_to_choose(study))
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    return sorted(own, key=lambda t: (sign * t.values[0], t.number))[:top]


def accuracy_interval(records: Sequence[TrialRecord]) -> Interval:
    """Mean test accuracy of one config over its seeds, resampled over seeds and prompts."""
    table, ids = _correct(records)
    return bootstrap_crossed(table, groups=_prompts(records[0].trial_config, ids), bounds=SHARE)


def signed_rank(first: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test over paired seeds: are two trials alike?

    The test by which Optuna's ``WilcoxonPruner`` stops a trial that is behind the best on the same
    instances; as there, seeds without a difference are split between the signs
    (``zero_method="zsplit"``). It looks at the seeds alone and takes the test pairs as they are,
    so it stands beside the interval and does not replace it. Nothing is stopped by it: the pruner
    looks again at every instance, and its p is one-sided and of no fixed level.

    Args:
        first: ``[seeds]``, test accuracy of the trial that is ranked first.
        other: ``[seeds]``, of another, on the same seeds.

    Returns:
        None below six seeds, where p cannot come below 0.05: with n all in one direction it is
        2 / 2^n, for n = 5 0.0625.
    """
    if len(first) < LEAST_SEEDS:
        return None
    from scipy.stats import wilcoxon

    # Rounding in the means must not rank two equal differences.
    difference = np.round(np.asarray(first) - np.asarray(other), 12)
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference, zero_method="zsplit").pvalue)


def _ranked(
    study: str,
    chosen: Sequence[FrozenTrial],
    configs: Mapping[int, TrialConfig],
    seeds: tuple[int, ...],
    runs: Mapping[int, Sequence[TrialRecord]],
) -> Confirmation:
    tables: dict[int, NDArray[np.float64]] = {}
    samples: list[str] = []
    for number, records in runs.items():
        tables[number], ids = _correct(records)
        if samples and ids != samples:
            raise UserError(
                f"trial {number} was searched on another data split than the others, so they "
                "cannot be compared pair by pair; confirm with --top 1"
            )
        samples = ids
    groups = _prompts(configs[chosen[0].number], samples)
    order = sorted(tables, key=lambda n: (-tables[n].mean(), n))
    searched = {trial.number: trial.values[0] for trial in chosen}
    ranking = []
    for place, number in enumerate(order):
        above = {
            other: bootstrap_crossed(
                tables[other] - tables[number], groups=groups, bounds=of_differences(SHARE)
            )
            for other in order[:place]
        }
        ranking.append(
            ConfirmedTrial(
                number=number,
                searched=searched[number],
                accuracy=bootstrap_crossed(tables[number], groups=groups, bounds=SHARE),
                by_seed=tuple(tables[number].mean(1).tolist()),
                objective=_mean_objective(runs[number]),
                behind=above[order[0]] if above else None,
                not_separable_from=tuple(n for n, d in above.items() if d.low <= 0 <= d.high),
                wilcoxon=signed_rank(tables[order[0]].mean(1), tables[number].mean(1))
                if above
                else None,
            )
        )
    return Confirmation(study, seeds, len(samples), tuple(ranking))


def _correct(records: Sequence[TrialRecord]) -> tuple[NDArray[np.float64], list[str]]:
    """``[seeds, pairs]``: 1 where chosen is above rejected; and the pairs' ids."""
    samples = [record.report["test"]["samples"] for record in records]
    table = [[float(s["chosen"] > s["rejected"]) for s in run] for run in samples]
    return np.array(table), [s["id"] for s in samples[0]]


def _prompts(config: TrialConfig, ids: Sequence[str]) -> list[str]:
    """The prompt of each test pair: pairs of one prompt are resampled together."""
    from rmexp.preferences import prompt_text
    from rmexp.trial.held_out import test_pairs

    prompts = {pair.id: prompt_text(pair.prompt) for pair in test_pairs(config)}
    return [prompts[i] for i in ids]


def _mean_objective(records: Sequence[TrialRecord]) -> float | None:
    from rmexp.evaluation.objective import evaluate_objective

    formula = records[0].trial_config.evaluation.objectives[0]
    values = []
    for record in records:
        part = "test/"
        metrics = {n.removeprefix(part): v for n, v in record.metrics.items() if n.startswith(part)}
        try:
            values.append(evaluate_objective(formula, metrics))
        except UserError:
            return None
    return float(np.mean(values))
