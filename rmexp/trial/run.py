"""run_trial: one pass from preference pairs to the objective, whoever calls it."""

from __future__ import annotations

import datetime
import shutil
import time
import traceback as traceback_module
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.reward.checkpoint_files import CHECKPOINTS, NEXT, remove_checkpoints
from rmexp.tracking.tracker import NullTracker
from rmexp.trial import assembly
from rmexp.trial.early import check_device, check_fetched
from rmexp.trial.failure import FailureKind, failure_kind
from rmexp.trial.measured import (
    base_result,
    wants_base,
)
from rmexp.trial.model_card import add_to_card
from rmexp.trial.ranks import check_can_start, run_ranks
from rmexp.trial.reading import evaluation_sets
from rmexp.trial.record import MODEL, State, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig
from rmexp.trial.seeds import run_each_seed
from rmexp.trial.steps import (
    Advance,
    Progress,
    Pruned,
    Report,
    RunningTrial,
    evaluate,
    label_training_pairs,
    log_samples,
    note_contamination,
    rate_training_pairs,
    read_and_note,
    train,
)
from rmexp.trial.unfinished import copy_whole


def run_trial(
    config: TrialConfig,
    *,
    directory: Path,
    identity: TrialIdentity | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
    advance: Advance | None = None,
    resume_from: Path | None = None,
    must_resume: bool = False,
) -> TrialRecord:
    """Run one trial: read, rate, select, label, train, evaluate.

    With several seeds each is trained by itself, see :func:`rmexp.trial.seeds.run_each_seed`.

    Args:
        config: the resolved config.
        directory: of this trial alone; made here. Gets ``record.json``, ``model/`` and the
            tracker's files.
        identity: which trial of which study.
        report: called after each epoch with (epoch, objective); True stops the trial as pruned.
            Never called where there are several objectives.
        progress: called with the name of each step as it begins.
        advance: called with (done, all) within a step that rates, trains or scores.
        resume_from: directory of an interrupted trial of the same config; training goes on from
            its last checkpoint, where there is one. Where that is of other pairs or options, it
            begins anew and says so.
        must_resume: fail rather than begin anew.

    Returns:
        The record, also written to ``directory``. A failure is a record of state ``failed`` with
        its reason, not an exception; only KeyboardInterrupt passes through, leaving no record.

    Raises:
        UserError: before the directory is made, for a config that cannot run.
    """
    identity = identity or TrialIdentity()
    if identity.study is None:
        _check(config)
    if config.trainer.ranks > 1:
        check_can_start(config)
    progress = progress or (lambda step: None)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir: cannot make {directory}: {error.strerror}") from error
    how: dict[str, Any] = {"directory": directory, "identity": identity, "report": report}
    how |= {"progress": progress, "advance": advance}
    how |= {"resume_from": resume_from, "must_resume": must_resume}
    return run_each_seed(config, _run_one, **how) if config.seeds else _run_one(config, **how)


def _run_one(config: TrialConfig, **how: Any) -> TrialRecord:
    """One training, in this process or in one for each rank."""
    return run_ranks(config, **how) if config.trainer.ranks > 1 else run_here(config, **how)


def run_here(
    config: TrialConfig,
    *,
    directory: Path,
    identity: TrialIdentity,
    report: Report | None,
    progress: Progress,
    resume_from: Path | None,
    must_resume: bool,
    advance: Advance | None,
) -> TrialRecord:
    """The trial in this process, which is rank 0 where there are several."""
    info = assembly.run_info(config, identity, directory)
    trial = RunningTrial(
        config,
        directory,
        identity,
        assembly.tracker(config.tracker, info),
        progress,
        advance,
        resume=resume_from is not None and _copy_checkpoint(resume_from, directory),
        must_resume=must_resume,
    )
    trial.times["started"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    clock = time.monotonic()
    state: State = "complete"
    reason = text = ""
    failure: FailureKind | None = None
    try:
        _run(trial, report)
        add_to_card(trial.record("complete", ""), directory / MODEL)
    except Pruned as pruned:
        state, reason = "pruned", str(pruned)
        remove_checkpoints(directory / CHECKPOINTS)  # nobody goes on from a pruned trial
    except KeyboardInterrupt:
        trial.tracker.finish("failed", "interrupted", {})
        raise
    except Exception as error:
        state, reason, failure = "failed", one_line(error), failure_kind(error)
        text = "" if isinstance(error, UserError) else traceback_end(error)
    trial.times["total"] = round(time.monotonic() - clock, 3)
    record = trial.record(state, reason, text, failure)
    # The tracker first: once record.json is there, the trial is over for every reader.
    trial.tracker.finish(state, reason, {**record.metrics, "objective": record.objective})
    record.write(directory)
    return record


def join_training(config: TrialConfig, *, directory: Path, resume: bool) -> None:
    """A further rank's part: the labels, from what rank 0 has stored, and the training.

    Args:
        config: the resolved config.
        directory: of the trial; rank 0 writes there.
        resume: go on from the checkpoint there, where there is one.
    """
    trial = RunningTrial(
        config,
        directory,
        TrialIdentity(),
        NullTracker(),
        lambda step: None,
        resume=resume and (directory / CHECKPOINTS).is_dir(),
    )
    rules = assembly.rule_set(config)
    splits = read_and_note(trial, rules)
    # What rank 0 could not have rated is not asked for again: an answer now would give this rank
    # other pairs to train on.
    rated = rate_training_pairs(trial, splits.train, rules, on_missing="leave")
    labelled = label_training_pairs(trial, rated)
    train(trial, splits, labelled, {}, None, None)


def _run(trial: RunningTrial, report: Report | None) -> None:
    """The line, in named steps."""
    config = trial.config
    with trial.step("read"):
        if trial.identity.study is not None:
            # Its sweep has checked the edges of the space: what is wrong with this point is told
            # as any failure among its trials is.
            _check(config)
        rules = assembly.rule_set(config)
        splits = read_and_note(trial, rules)
        sets = evaluation_sets(config, splits)
        check_fetched(config, sets)
    with trial.step("contamination"):
        note_contamination(trial, splits, sets)
    base = None
    if wants_base(config.evaluation):
        with trial.step("base"):
            base = base_result(config, sets)
    with trial.step("rate"):
        rated = rate_training_pairs(trial, splits.train, rules)
    with trial.step("label"):
        labelled = label_training_pairs(trial, rated)
    with trial.step("train"):
        train(trial, splits, labelled, sets, base, report)
    with trial.step("evaluate"):
        evaluate(trial, splits, sets, base)
    log_samples(trial, labelled)


def _check(config: TrialConfig) -> None:
    assembly.check_before_anything_heavy(config)
    check_device(config.trainer)


def _copy_checkpoint(old: Path, new: Path) -> bool:
    """Copy an interrupted trial's checkpoints; a broken copy means to begin again."""
    checkpoints = old / CHECKPOINTS
    if not checkpoints.is_dir() or (new / CHECKPOINTS).exists():
        return (new / CHECKPOINTS).is_dir()
    try:
        copy_whole(checkpoints, new / CHECKPOINTS, leave_out=NEXT)
    except (OSError, shutil.Error):
        return False  # a process that was thought dead may still be replacing them
    return True


def one_line(error: Exception) -> str:
    """An error as a reason: a user's as it is, others with their class."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"[:500]


def traceback_end(error: Exception, lines: int = 40) -> str:
    """The last lines of an error's traceback."""
    text = "".join(traceback_module.format_exception(error))
    return "\n".join(text.splitlines()[-lines:])
