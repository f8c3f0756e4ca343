"""A trial as a job on a cluster: what runs there."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rmexp.sweep import mailbox
from rmexp.sweep.job import LOG, TrialJob
from rmexp.trial.record import FILE_NAME
from rmexp.trial.unfinished import has_progress

_LOOK = 1.0


@dataclass(frozen=True)
class ClusterJob:
    """Called on the node; may be called again for the same trial after a preemption.

    Attributes:
        job: the trial.
        patience: seconds to wait for the controller's verdict on a report.
        run: another ``run_trial``, a module's function; None is the real one.
    """

    job: TrialJob
    patience: float = 60.0
    run: Callable[..., Any] | None = None

    def __call__(self) -> None:
        """Run the trial; its record tells the rest."""
        directory = self.job.directory
        again = mailbox.begin(directory)
        # A scheduler may start a job once more although it had come to its end.
        if (directory / FILE_NAME).exists() or mailbox.is_given_up(directory):
            return
        _log_to(directory / LOG)
        threading.Thread(target=_watch, args=(self.job,), daemon=True).start()
        job = self.job
        # The scheduler has ended the attempt before this one: the directory is ours alone. One that
        # was preempted before it had a checkpoint here begins as it would have begun.
        if again and has_progress(directory):
            job = replace(job, resume_from=directory)

        from rmexp.trial.schema import trial_config

        run = self.run
        if run is None:
            from rmexp.trial.run import run_trial

            run = run_trial
        run(
            trial_config(job.config),
            directory=directory,
            identity=job.identity,
            report=lambda epoch, value: mailbox.post_report(directory, epoch, value, self.patience),
            progress=lambda step: print(step, flush=True),
            resume_from=job.resume_from,
        )

    def checkpoint(self) -> Any:
        """What submitit queues again when the job is preempted or its time is up."""
        from submitit.helpers import DelayedSubmission

        mailbox.queue_again(self.job.directory)
        return DelayedSubmission(self)


def _log_to(path: Any) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)


def _watch(job: TrialJob) -> None:
    while not mailbox.is_given_up(job.directory):
        time.sleep(_LOOK)
    # Its ranks end with it. At once: what it writes no longer counts.
    os.kill(os.getpid(), signal.SIGKILL)
