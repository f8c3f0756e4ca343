"""What an executor runs, and the Executor protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rmexp.trial.record import TrialIdentity

# What a trial prints, in its directory.
LOG = "log.txt"


@dataclass(frozen=True)
class TrialJob:
    """One trial to run, as plain data that any process can take.

    Attributes:
        identity: study and trial number.
        config: the trial's resolved config.
        directory: of this trial alone.
        resume_from: directory of the earlier attempt whose checkpoint this one goes on from; None
            to begin.
    """

    identity: TrialIdentity
    config: dict[str, Any]
    directory: Path
    resume_from: Path | None = None

    @property
    def number(self) -> int:
        """The trial's number in its study."""
        assert self.identity.number is not None
        return self.identity.number


@dataclass(frozen=True)
class Ended:
    """A job that is over; its result, if any, is the record in its directory.

    Attributes:
        job: the job.
        lost: why there is no record, such as ``worker died (signal 9)``; empty where there is one.
    """

    job: TrialJob
    lost: str = ""


# (trial number, epoch, objective) -> whether to prune the trial.
ReportHandler = Callable[[int, int, float], bool]


class Executor(Protocol):
    """Runs jobs somewhere, several at once."""

    threads: int

    @property
    def slots(self) -> int:
        """Trials at once."""

    def submit(self, job: TrialJob) -> None:
        """Take a job; the caller keeps no more than ``slots`` unfinished.

        Raises:
            UserError: it cannot be started now.
        """

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        """Answer reports as they come; return the jobs that ended, at the latest after timeout."""

    def has_begun(self, number: int) -> bool:
        """Whether a trial that was taken runs; False while it waits for its place on a cluster, at
        first or after a preemption.
        """

    def cancel(self, number: int) -> None:
        """Stop a trial by force; it is still returned by :meth:`wait`, as lost."""

    def close(self) -> None:
        """Stop what still runs and leave no process behind."""


def last_line(directory: Path) -> str:
    """The end of a trial's log; empty where there is none."""
    try:
        lines = (directory / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
