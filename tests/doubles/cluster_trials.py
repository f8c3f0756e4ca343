"""Cheap stand-ins for run_trial, for jobs in processes of their own."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from rmexp.trial.record import TrialRecord


def cheap_trial(config, *, directory: Path, identity, report, progress, resume_from):
    """Reports each epoch; its objective is gamma; says where it ran."""
    progress("train")
    (directory / "process").write_text(f"{socket.gethostname()} {os.getpid()}")
    state, reason, history = "complete", "", []
    for epoch in range(1, config.epochs + 1):
        history.append({"epoch": epoch})
        if report(epoch, config.gamma) and epoch < config.epochs:
            state, reason = "pruned", f"pruned after epoch {epoch}"
            break
    record = TrialRecord(
        state,
        reason,
        config.gamma,
        config.to_plain(),
        identity,
        history=history,
        objectives=[config.gamma],
        report={"resumed from": str(resume_from), "folder": os.getcwd()},
    )
    record.write(directory)
    return record


def held_trial(config, *, directory: Path, **others):
    """Below 0.5 the first attempt waits until it is killed or a file ``go`` lies beside it."""
    if others["identity"].attempt == 0 and config.gamma < 0.5:
        (directory / "held").write_text(str(os.getpid()))
        while not (directory.parent / "go").exists():
            time.sleep(0.05)
    return cheap_trial(config, directory=directory, **others)


def preempted_trial(config, *, directory: Path, **others):
    """Leaves a checkpoint and waits for its preemption, unless it goes on from a checkpoint."""
    resumed = others["resume_from"]
    if resumed is None:
        (directory / "checkpoints").mkdir()
        (directory / "checkpoints" / "last.ckpt").write_text(str(os.getpid()))
        time.sleep(600)
    return cheap_trial(config, directory=directory, **others)
