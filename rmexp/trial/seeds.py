"""A trial of several seeds: each trained alone below ``seed-N/``, and what they come to together.

The trial's objective and metrics are means over the seeds, with intervals over seeds and pairs. The
model of the first seed stays as the trial's; the tables of its record are that one's too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rmexp.evaluation.preferences import accuracy_over_seeds
from rmexp.preferences import Pair
from rmexp.reward.checkpoint_files import CHECKPOINTS, last_checkpoint
from rmexp.trial import assembly, reading
from rmexp.trial.model_card import add_to_card
from rmexp.trial.record import FILE_NAME, MODEL, State, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig
from rmexp.trial.steps import Advance, Progress, Report
from rmexp.trial.unfinished import copy_whole, remove_progress, seed_directory
from rmexp.trial.versions import code_fingerprint, library_versions

_ENDS = ("_low", "_high")

# ``run_trial`` for one seed, behind its checks.
RunOne = Callable[..., TrialRecord]


def run_each_seed(
    config: TrialConfig,
    run_one: RunOne,
    *,
    directory: Path,
    identity: TrialIdentity,
    report: Report | None,
    progress: Progress,
    advance: Advance | None,
    resume_from: Path | None,
    must_resume: bool,
) -> TrialRecord:
    """Run a trial once with each of ``config.seeds``; arguments and result as of ``run_trial``.

    Seeds run one after the other. Epochs are reported counted on over the seeds, each with the mean
    over those that have ended and the one that trains, so that a pruner sees a trial grow surer.
    Seeds that have ended in ``resume_from`` are not trained again.
    """
    tracker = assembly.tracker(config.tracker, assembly.run_info(config, identity, directory))
    search = _Search(report, config.epochs)
    ended: list[TrialRecord] = []
    last: TrialRecord
    clock = time.monotonic()
    try:
        for seed in config.seeds:
            own = seed_directory(directory, seed)
            of_seed = config.with_seed(seed)
            old = None if resume_from is None else seed_directory(resume_from, seed)
            before = _ended_before(of_seed, old, own, keeps_model=seed == config.seeds[0])
            if before is not None:
                last = before
            else:
                own.mkdir(exist_ok=True)
                goes_on = old is not None and last_checkpoint(old / CHECKPOINTS) is not None
                last = run_one(
                    of_seed,
                    directory=own,
                    identity=replace(identity, seed=seed),
                    report=search.of_seed(),
                    progress=_prefixed(progress, f"seed {seed}: "),
                    advance=advance,
                    resume_from=old if goes_on else None,
                    must_resume=must_resume and goes_on,
                )
            if last.state != "complete":
                break
            ended.append(last)
            if seed != config.seeds[0]:
                shutil.rmtree(own / MODEL, ignore_errors=True)
            tracker.log(_means(ended), step_metric="epoch", step=len(ended) * config.epochs)
            search.seed_ended(last, tell=before is not None)
            if search.stop and len(ended) < len(config.seeds):
                break
    except KeyboardInterrupt:
        tracker.finish("failed", "interrupted", {})
        raise
    record = _together(config, identity, ended, last, search)
    record.times["total"] = round(time.monotonic() - clock, 3)
    if record.state == "complete":
        _keep_model(seed_directory(directory, config.seeds[0]) / MODEL, directory / MODEL)
        record = replace(record, paths={"model": MODEL})
        add_to_card(record, directory / MODEL)
    elif record.state == "pruned":
        remove_progress(directory)
    # The tracker first: once record.json is there, the trial is over for every reader.
    tracker.finish(record.state, record.reason, {**record.metrics, "objective": record.objective})
    record.write(directory)
    return record


def seed_lines(record: TrialRecord) -> list[str]:
    """What each seed of a trial came to; none where it has one alone."""
    by_seed = record.report.get("by_seed", [])
    if not by_seed:
        return []
    values = ", ".join(
        f"{each['objectives'][0]:.4f} (seed {each['seed']})" if each["objectives"] else "none"
        for each in by_seed
    )
    return [
        f"mean of {len(by_seed)} seeds: {values}; the model kept is that of seed "
        f"{by_seed[0]['seed']}"
    ]


@dataclass
class _Search:
    """What stands between the seeds and the search.

    Attributes:
        report: of the trial; None where nobody asks.
        epochs: of each seed.
        values: objective of each seed that has ended.
        value: the mean that was reported last.
        stop: what the search answered last.
    """

    report: Report | None
    epochs: int
    values: list[float] = field(default_factory=list)
    value: float | None = None
    stop: bool = False

    def of_seed(self) -> Report | None:
        """The report of the seed that trains next."""
        if self.report is None:
            return None
        before = len(self.values) * self.epochs

        def told(epoch: int, value: float) -> bool:
            assert self.report is not None
            self.value = fmean([*self.values, value])
            self.stop = self.report(before + epoch, self.value)
            return self.stop

        return told

    def seed_ended(self, record: TrialRecord, *, tell: bool) -> None:
        """Take a seed's end, and tell it where no epoch of it was: that the trial went on behind it
        is decided.
        """
        if record.objective is None or len(record.objectives) > 1:
            return
        self.values.append(record.objective)
        if tell and self.report is not None:
            self.report(len(self.values) * self.epochs, fmean(self.values))


def _together(
    config: TrialConfig,
    identity: TrialIdentity,
    ended: Sequence[TrialRecord],
    last: TrialRecord,
    search: _Search,
) -> TrialRecord:
    """The trial's record from those of its seeds."""
    every = [*ended] if last.state == "complete" else [*ended, last]
    state: State = last.state
    reason, objectives = "", []
    if state == "complete" and len(ended) < len(config.seeds):
        state = "pruned"
    if state == "pruned" and search.value is not None:
        objectives = [search.value]
        epoch = len(_history(config, every))
        reason = (
            f"pruned after epoch {epoch}, of seed {config.seeds[len(every) - 1]}, at "
            f"{config.evaluation.objectives[0]}={search.value:.4f} over {len(every)} seeds"
        )
    elif state == "failed":
        reason = f"seed {config.seeds[len(every) - 1]}: {last.reason}"
    elif state == "complete" and all(record.objectives for record in ended):
        values = zip(*(record.objectives for record in ended), strict=True)
        objectives = [fmean(each) for each in values]
    metrics = _means(every)
    if state == "complete":
        metrics |= _intervals(config, ended)
    first = every[0]
    return replace(
        first,
        state=state,
        reason=reason,
        objective=objectives[0] if objectives else None,
        objectives=objectives,
        config=config.to_plain(),
        identity=identity,
        metrics=metrics,
        history=_history(config, every),
        seeds={**first.seeds, "trial": list(config.seeds)},
        times=_times(every),
        paths={},
        report=_report(every),
        traceback=last.traceback,
        failure=last.failure,
    )


def _means(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Mean of each number that all seeds have, but for ends of intervals, which have no mean.

    Ratings are summed: what was paid for was paid for once.
    """
    first = records[0].metrics
    ends = {f"{name}{end}" for name in first for end in _ENDS}
    names = [
        name
        for name in first
        if name not in ends and all(name in record.metrics for record in records)
    ]
    columns = {name: [record.metrics[name] for record in records] for name in names}
    means = {n: sum(c) if n.startswith("ratings/") else fmean(c) for n, c in columns.items()}
    values = [record.objective for record in records if record.objective is not None]
    if len(values) > 1:
        means["seeds/objective_std"] = stdev(values)
    return means


def _intervals(config: TrialConfig, records: Sequence[TrialRecord]) -> dict[str, float]:
    """Accuracies on sets of pairs, with intervals of other seeds and other pairs."""
    import numpy as np

    found: dict[str, float] = {}
    for part, pairs in _sets_of_pairs(config):
        samples = [record.report.get(part, {}).get("samples") for record in records]
        if not all(samples):
            continue
        chosen, rejected = (
            np.array([[sample[side] for sample in run] for run in samples])
            for side in ("chosen", "rejected")
        )
        numbers = accuracy_over_seeds(pairs, chosen, rejected)
        found |= {f"{part}/{name}": value for name, value in numbers.items()}
    return found


def _sets_of_pairs(config: TrialConfig) -> Iterator[tuple[str, Sequence[Pair]]]:
    _, splits = reading.read_splits(config.data)
    for name, of in reading.evaluation_sets(config, splits).items():
        if of.rows and isinstance(of.rows[0], Pair):
            yield name, of.rows
    if config.evaluation.test:
        yield "test", reading.judged(splits.test, "test")


def _history(config: TrialConfig, records: Sequence[TrialRecord]) -> list[dict[str, float]]:
    """The epochs of all seeds, counted on."""
    return [
        {**row, "epoch": place * config.epochs + row["epoch"], "seed": config.seeds[place]}
        for place, record in enumerate(records)
        for row in record.history
    ]


def _report(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """What the first seed tells, what each came to, and what any was warned of."""
    by_seed = [
        {"seed": r.seeds["trial"], "objectives": r.objectives, "metrics": r.metrics}
        for r in records
    ]
    report = {**records[0].report, "by_seed": by_seed}
    warnings = dict.fromkeys(w for r in records for w in r.report.get("warnings", ()))
    return report | ({"warnings": list(warnings)} if warnings else {})


def _times(records: Sequence[TrialRecord]) -> dict[str, Any]:
    steps = dict.fromkeys(name for r in records for name in r.times if name != "started")
    summed = {name: round(sum(r.times.get(name, 0.0) for r in records), 3) for name in steps}
    return {"started": records[0].times.get("started", ""), **summed}


def _ended_before(
    config: TrialConfig, old: Path | None, own: Path, *, keeps_model: bool
) -> TrialRecord | None:
    """The record of a seed that ended in an earlier attempt at the trial, brought here."""
    for there in (own, old):
        record = None if there is None else _complete(there, config)
        if there is None or record is None:
            continue
        if keeps_model and not (there / MODEL).is_dir():
            continue
        if there != own:
            own.mkdir(parents=True, exist_ok=True)
            if keeps_model:
                shutil.rmtree(own / MODEL, ignore_errors=True)
                copy_whole(there / MODEL, own / MODEL)
            record.write(own)
        return record
    return None


def _complete(directory: Path, config: TrialConfig) -> TrialRecord | None:
    """A seed's record where it would come out the same today."""
    if not (directory / FILE_NAME).is_file():
        return None
    record = TrialRecord.read(directory)
    same = record.state == "complete" and record.config == config.to_plain()
    code = record.fingerprints.get("code", {}).get("hexdigest") == code_fingerprint().hexdigest
    return record if same and code and record.versions == library_versions() else None


def _keep_model(made: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)


def _prefixed(progress: Progress, words: str) -> Progress:
    return lambda step: progress(words + step)
