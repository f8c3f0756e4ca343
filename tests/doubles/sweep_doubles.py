"""An executor that runs nothing, and a controller around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna

from rmexp.sweep.controller import Controller
from rmexp.sweep.job import Ended, ReportHandler, TrialJob
from rmexp.sweep.progress import Progress
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import StudyFolder, open_study
from rmexp.sweep.warm_start import learn_from_others
from rmexp.trial.record import MODEL, TrialRecord
from rmexp.trial.schema import TrialConfig

SPACE = Space((Dimension("gamma", optuna.distributions.FloatDistribution(0.0, 1.0)),))

GUARD = "refusals <= 0.5"


def guarded_trial(job: TrialJob) -> TrialRecord:
    """A trial whose objective is gamma, and that keeps :data:`GUARD` up to 0.5."""
    value = job.config["gamma"]
    metrics = {f"guards/{GUARD}": value - 0.5}
    return TrialRecord(
        "complete", "", value, job.config, job.identity, metrics=metrics, objectives=[value]
    )


class FakeExecutor:
    """Ends jobs in their order, with what ``outcome`` says of each.

    A number is the objective, a list the reports of epochs, a string how the worker was lost, an
    exception a failure inside the trial; a record is taken as it is.
    """

    threads = 1

    def __init__(
        self,
        outcome: Callable[[TrialJob], Any] = lambda job: job.config["gamma"],
        crash_after: int | None = None,
        slots: int = 2,
    ) -> None:
        self.outcome, self.crash_after, self.slots = outcome, crash_after, slots
        self.jobs: deque[TrialJob] = deque()
        self.submitted: list[TrialJob] = []
        self.cancelled: list[int] = []
        self.closed = False

    def submit(self, job: TrialJob) -> None:
        assert job.directory not in [j.directory for j in self.submitted]
        self.jobs.append(job)
        self.submitted.append(job)

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        if self.crash_after is not None and len(self.submitted) > self.crash_after:
            raise KeyboardInterrupt
        job = self.jobs.popleft()
        result = self.outcome(job)
        if isinstance(result, str):
            return [Ended(job, result)]
        (job.directory / MODEL).mkdir(parents=True)
        if not isinstance(result, TrialRecord):
            result = _record(job, result, on_report)
        result.write(job.directory)
        return [Ended(job)]

    def has_begun(self, number: int) -> bool:
        return True

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def lose(self, number: int) -> list[Ended]:
        (job,) = [j for j in self.jobs if j.number == number]
        self.jobs.remove(job)
        return [Ended(job, "worker lost: killed by SIGKILL")]

    def close(self) -> None:
        self.closed = True


def _record(job: TrialJob, result: Any, on_report: ReportHandler) -> TrialRecord:
    if isinstance(result, Exception):
        return TrialRecord("failed", str(result), None, job.config, job.identity)
    state, reason = "complete", ""
    if isinstance(result, list):
        for epoch, value in enumerate(result, 1):
            if on_report(job.number, epoch, value):
                state, reason = "pruned", "pruned"
                break
        result = result[-1]
    return TrialRecord(state, reason, result, job.config, job.identity, objectives=[result])


def controller_of(
    tmp_path: Path,
    executor: FakeExecutor,
    space: Space = SPACE,
    name: str = "s",
    guards: Sequence[str] = (),
    **sweep: Any,
) -> tuple[Controller, optuna.Study, list[Progress]]:
    """A controller, its study, and the list that its events go into."""
    folder = StudyFolder.of(tmp_path, name)
    folder.make()
    config = SweepConfig(**{"trials": 6, **sweep})
    events: list[Progress] = []
    study = open_study(folder, config)
    notes = learn_from_others(study, folder, config, space, guards)
    controller = Controller(
        study=study,
        folder=folder,
        config=config,
        space=space,
        config_for=lambda values: TrialConfig(cache_dir="c", **values),
        executor=executor,
        guarded=bool(guards),
        notes=notes,
        on_progress=events.append,
    )
    return controller, study, events


def states(study: optuna.Study) -> list[str]:
    """Names of the trials' states, by number."""
    return [t.state.name for t in study.get_trials(deepcopy=False)]
