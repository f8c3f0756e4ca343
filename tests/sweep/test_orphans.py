"""A worker that outlives its controller: what it leaves behind decides whether its point lives."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmexp.sweep.job import TrialJob
from rmexp.sweep.worker_processes import _work
from rmexp.trial.record import FILE_NAME, TrialIdentity
from rmexp.trial.schema import TrialConfig


def _reports_late(
    config: TrialConfig, *, directory: Path, report: Callable[..., bool], **_: Any
) -> None:
    (directory / "began").touch()
    while not (directory / "go").exists():
        time.sleep(0.01)
    try:
        report(1, 0.5)
    except Exception:
        # As run_trial does: an error becomes a record.
        (directory / FILE_NAME).write_text("{}")


def test_a_worker_whose_controller_is_gone_dies_without_a_record(tmp_path: Path) -> None:
    job = TrialJob(TrialIdentity("s", 0), TrialConfig(cache_dir="c").to_plain(), tmp_path / "t")
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(job, theirs, "", _reports_late))
    worker.start()
    theirs.close()
    while not (job.directory / "began").exists():
        time.sleep(0.01)
    ours.close()
    (job.directory / "go").touch()
    worker.join(20)
    assert worker.exitcode == -signal.SIGKILL
    assert not (job.directory / FILE_NAME).exists()
