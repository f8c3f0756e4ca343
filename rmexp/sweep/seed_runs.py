"""A trial's config on fresh seeds, measured on the test pairs: what confirm and rerun compare."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmexp.errors import UserError
from rmexp.sweep.drift import found_today
from rmexp.sweep.job import Executor, TrialJob
from rmexp.sweep.rerun import OnDrift, refuse_drift, with_tracker
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig
from rmexp.trial.versions import library_versions

# Far from the seeds that people give to a search.
_FIRST_SEED = 1000

OnEvent = Callable[[str], None]


def fresh_seeds(used: Sequence[int], count: int) -> tuple[int, ...]:
    """The first seeds from 1000 on that are not in use.

    >>> fresh_seeds([0, 1001], 3)
    (1000, 1002, 1003)
    """
    seeds: list[int] = []
    candidate = _FIRST_SEED
    while len(seeds) < count:
        if candidate not in used:
            seeds.append(candidate)
        candidate += 1
    return tuple(seeds)


def rerun_seeds(
    folder: StudyFolder,
    number: int,
    executor: Executor,
    *,
    seeds: int,
    on_drift: OnDrift = "refuse",
    tracker: str | None = None,
    on_event: OnEvent = lambda event: None,
) -> tuple[tuple[int, ...], list[TrialRecord]]:
    """Run one trial's stored config on fresh seeds.

    Args:
        folder: of the study.
        number: of the trial.
        executor: runs it; closed at the end.
        seeds: how many, two or more.
        on_drift: what to do where data, rules, rater, model, code or versions have changed.
        tracker: another tracker kind than the stored one.
        on_event: told what happens.

    Returns:
        The seeds, and the record of each.

    Raises:
        DriftError: something has changed and ``on_drift`` is refuse; it is named.
        UserError: as :func:`run_seeds`, or the trial has no record.
    """
    if seeds < 2:
        raise UserError("--seeds: give 2 or more; one seed says nothing about other seeds")
    record = TrialRecord.read(folder.trial(number))
    for line in refuse_drift(folder, number, record, on_drift):
        on_event(f"drift: {line}")
    config = with_tracker(record.trial_config, tracker)
    fresh = fresh_seeds(config.all_seeds, seeds)
    runs = run_seeds(folder, {number: config}, fresh, executor, on_event=on_event)
    return fresh, runs[number]


def run_seeds(
    folder: StudyFolder,
    configs: Mapping[int, TrialConfig],
    seeds: Sequence[int],
    executor: Executor,
    *,
    on_event: OnEvent = lambda event: None,
) -> dict[int, list[TrialRecord]]:
    """Run each trial's config on each seed; records by trial, in the order of the seeds.

    Nothing is pruned. What finished before is not run again where it was made of what is there
    today: the same config, code, library versions, pairs, rules, rater and model. The trained
    models are removed, their scores on the test pairs stay in the records.

    Raises:
        UserError: a run failed, or measured other test pairs than the search kept aside.
    """
    jobs = {
        (number, seed): _job(folder, number, config, seed, executor.threads)
        for seed in seeds
        for number, config in configs.items()
    }
    records = _finished(jobs)
    if records:
        on_event(f"{len(records)} of {len(jobs)} runs had finished before")
    waiting = [job for key, job in jobs.items() if key not in records]
    running = 0
    try:
        while waiting or running:
            while waiting and running < executor.slots:
                job = waiting.pop(0)
                # What an interrupted run left here must not pass for this one's result.
                shutil.rmtree(job.directory, ignore_errors=True)
                executor.submit(job)
                running += 1
                on_event(f"trial {job.number}, seed {job.config['seed']}: started")
            for ended in executor.wait(lambda number, epoch, value: False, 1.0):
                running -= 1
                key = (ended.job.number, ended.job.config["seed"])
                records[key] = record = _settled(folder, ended.job, ended.lost)
                accuracy = record.metrics["test/accuracy"]
                on_event(f"trial {key[0]}, seed {key[1]}: test accuracy {accuracy:.4f}")
    finally:
        executor.close()
    return {number: [records[number, seed] for seed in seeds] for number in configs}


def _job(
    folder: StudyFolder, number: int, config: TrialConfig, seed: int, threads: int
) -> TrialJob:
    update: dict[str, Any] = {
        "evaluation": config.evaluation.model_copy(update={"test": True}),
    }
    if config.trainer.threads is None:
        update["trainer"] = config.trainer.model_copy(update={"threads": threads})
    plain = config.with_seed(seed, **update).to_plain()
    # The seed stands for the attempt, so that each (trial, seed) has a tracker run of its own.
    identity = TrialIdentity(folder.name, number, seed, "confirm")
    # Whole, as a job may run in another working directory.
    directory = folder.root.resolve() / "confirm" / f"{number:04d}-seed{seed}"
    return TrialJob(identity, plain, directory)


def _finished(jobs: Mapping[tuple[int, int], TrialJob]) -> dict[tuple[int, int], TrialRecord]:
    """The records of earlier runs that would come out the same today."""
    found = {}
    today: dict[int, dict[str, str]] = {}
    for (number, seed), job in jobs.items():
        record = _complete(job)
        if record is None or record.versions != library_versions():
            continue
        if number not in today:  # whatever the seed
            now = found_today(record.trial_config)
            today[number] = {name: make().hexdigest for name, make in now.items()}
        stored = {name: record.fingerprints.get(name, {}) for name in today[number]}
        if {name: plain.get("hexdigest") for name, plain in stored.items()} == today[number]:
            found[number, seed] = record
    return found


def _complete(job: TrialJob) -> TrialRecord | None:
    """The complete record of a run of the same config; where it logged does not matter."""
    try:
        record = TrialRecord.read(job.directory)
    except UserError:
        return None
    same = {**record.config, "tracker": None} == {**job.config, "tracker": None}
    return record if same and record.state == "complete" else None


def _settled(folder: StudyFolder, job: TrialJob, lost: str) -> TrialRecord:
    where = f"confirming trial {job.number} with seed {job.config['seed']}"
    if lost:
        raise UserError(f"{where}: {lost} (log: {job.directory / 'log.txt'})")
    record = TrialRecord.read(job.directory)
    if record.state != "complete":
        raise UserError(f"{where}: {record.reason} (record: {job.directory})")
    searched = TrialRecord.read(folder.trial(job.number)).fingerprints
    for part in ("train", "test"):
        old, new = searched.get(part), record.fingerprints.get(part)
        if old is not None and new is not None and old["hexdigest"] != new["hexdigest"]:
            raise UserError(f"{where}: the {part} pairs have changed since the search")
    shutil.rmtree(job.directory / MODEL, ignore_errors=True)
    return record
