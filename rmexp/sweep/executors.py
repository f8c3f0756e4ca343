"""Where trials run: in this process, in warm workers on this machine, or on a cluster."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from rmexp.sweep.job import Ended, Executor, ReportHandler, TrialJob
from rmexp.sweep.schema import (
    ExecutorConfig,
    InlineExecutorConfig,
    RayExecutorConfig,
    SubmititExecutorConfig,
)
from rmexp.sweep.worker_processes import ProcessExecutor, cores, visible_gpus
from rmexp.trial.early import check_device
from rmexp.trial.schema import TrainerConfig


class InlineExecutor:
    """One trial after the other, in the process that asks: simplest to debug."""

    slots = 1

    def __init__(self) -> None:
        self.threads = cores()
        self._jobs: deque[TrialJob] = deque()

    def submit(self, job: TrialJob) -> None:
        """Queue the job; it runs in :meth:`wait`."""
        self._jobs.append(job)

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        """Run the next job to its end."""
        from rmexp.trial.run import run_trial
        from rmexp.trial.schema import trial_config

        if not self._jobs:
            return []
        job = self._jobs.popleft()
        run_trial(
            trial_config(job.config),
            directory=job.directory,
            identity=job.identity,
            report=lambda epoch, value: on_report(job.number, epoch, value),
            resume_from=job.resume_from,
        )
        return [Ended(job)]

    def has_begun(self, number: int) -> bool:
        """Always: nothing waits here."""
        return True

    def cancel(self, number: int) -> None:
        """Nothing: where this is asked, the trial has ended already."""

    def close(self) -> None:
        """Nothing runs between two waits."""


def make_executor(
    config: ExecutorConfig, trainer: TrainerConfig | None = None, folder: Path | None = None
) -> Executor:
    """The executor that the config names.

    Args:
        config: of the executor.
        trainer: of the trials, whose ranks and GPUs the slots are cut for.
        folder: of the study, where a cluster's own files go below.

    Raises:
        UserError: what it needs is not installed or not there.
    """
    trainer = trainer or TrainerConfig()
    if isinstance(config, InlineExecutorConfig):
        check_device(trainer)
        return InlineExecutor()
    if isinstance(config, SubmititExecutorConfig):
        from rmexp.sweep.cluster import ClusterExecutor
        from rmexp.sweep.submitit_cluster import SubmititCluster

        own = (folder or Path.cwd()).resolve() / "submitit"
        return ClusterExecutor(SubmititCluster(config, trainer, own), threads=config.cpus)
    if isinstance(config, RayExecutorConfig):
        from rmexp.sweep.cluster import ClusterExecutor
        from rmexp.sweep.ray_cluster import RayCluster

        return ClusterExecutor(RayCluster(config, trainer), threads=max(1, int(config.cpus)))
    check_device(trainer)
    gpus = visible_gpus() if trainer.accelerator == "gpu" else ()
    return ProcessExecutor(config.slots, ranks=trainer.devices, gpus=gpus)
