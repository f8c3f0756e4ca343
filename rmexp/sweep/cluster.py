"""Trials on a cluster: handed in, looked after by files, each on its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rmexp.sweep import mailbox
from rmexp.sweep.cluster_job import ClusterJob
from rmexp.sweep.job import Ended, ReportHandler, TrialJob, last_line
from rmexp.trial.record import FILE_NAME


class Cluster(Protocol):
    """Starts jobs somewhere and tells when one is over."""

    @property
    def slots(self) -> int:
        """Jobs at once."""

    def start(self, job: ClusterJob) -> Any:
        """Hand a job in; a handle.

        Raises:
            UserError: the cluster does not take it.
        """

    def over(self, handle: Any) -> str | None:
        """Why a job is no longer there, in words; None while it waits or runs."""

    def stop(self, handle: Any) -> None:
        """End a job by force."""

    def close(self) -> None:
        """Leave the cluster; no job of ours runs any more."""


@dataclass
class _Running:
    job: TrialJob
    handle: Any
    over: str = ""
    over_since: float | None = None


class ClusterExecutor:
    """Keeps jobs on a cluster and reads what they leave in their directories.

    Every trial is a job of its own: one that is lost takes no other with it.

    Args:
        cluster: where the jobs run; its nodes share the study's folder with the controller.
        threads: CPU threads of each rank of a trial.
        patience: seconds that a trial waits for the verdict on a report.
        grace: seconds for which a record may be invisible after its job has ended, as shared file
            systems show other hosts' files late.
        run: another ``run_trial``, a module's function.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        threads: int,
        patience: float = 60.0,
        grace: float = 10.0,
        run: Callable[..., Any] | None = None,
    ) -> None:
        self._cluster = cluster
        self.threads = threads
        self._patience, self._grace, self._run = patience, grace, run
        self._running: list[_Running] = []

    @property
    def slots(self) -> int:
        """Jobs at once; a cluster may grow and shrink."""
        return self._cluster.slots

    def submit(self, job: TrialJob) -> None:
        """Hand the job in."""
        job.directory.mkdir(parents=True, exist_ok=True)
        with _our_imports():
            handle = self._cluster.start(ClusterJob(job, self._patience, self._run))
        self._running.append(_Running(job, handle))

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        """Answer reports and collect the jobs that are over, until one is or time is up."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self._look(on_report)
            if ended or not self._running or time.monotonic() >= deadline:
                return ended
            time.sleep(0.1)

    def has_begun(self, number: int) -> bool:
        """Whether the trial's job runs; False while it waits in the queue."""
        return any(
            mailbox.runs(running.job.directory)
            for running in self._running
            if running.job.number == number
        )

    def cancel(self, number: int) -> None:
        """End a trial's job."""
        for running in self._running:
            if running.job.number == number:
                self._stop(running)

    def close(self) -> None:
        """End every job."""
        for running in self._running:
            self._stop(running)
        self._running.clear()
        self._cluster.close()

    def _stop(self, running: _Running) -> None:
        # Should the cluster not answer, the job ends itself.
        mailbox.give_up(running.job.directory)
        self._cluster.stop(running.handle)

    def _look(self, on_report: ReportHandler) -> list[Ended]:
        ended = []
        for running in list(self._running):
            directory = running.job.directory
            for epoch, value in mailbox.open_reports(directory):
                prune = on_report(running.job.number, epoch, value)
                mailbox.post_verdict(directory, epoch, prune)
            end = self._end(running)
            if end is not None:
                self._running.remove(running)
                ended.append(end)
        return ended

    def _end(self, running: _Running) -> Ended | None:
        """How a job has ended; None while it has not."""
        if (running.job.directory / FILE_NAME).exists():
            return Ended(running.job)
        now = time.monotonic()
        if running.over_since is None:
            over = self._cluster.over(running.handle)
            if over is None:
                return None
            running.over, running.over_since = over, now
        if now - running.over_since < self._grace:
            return None
        # A scheduler may start it again, as after a node's failure.
        mailbox.give_up(running.job.directory)
        tail = last_line(running.job.directory)
        return Ended(running.job, f"job lost: {running.over}" + (f": {tail}" if tail else ""))


@contextmanager
def _our_imports() -> Iterator[None]:
    """Let jobs import what this process can, such as a rater of the user's beside the config."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def python_path() -> str:
    """This process's import path, as PYTHONPATH takes it."""
    return os.pathsep.join(os.path.abspath(place) for place in sys.path)
