"""Jobs by submitit: on SLURM, or on this machine to try that out."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.errors import UserError
from rmexp.sweep.schema import SubmititExecutorConfig
from rmexp.trial.schema import TrainerConfig

if TYPE_CHECKING:
    from rmexp.sweep.cluster_job import ClusterJob

_END = 10.0


class SubmititCluster:
    """Each trial a job of one task, which starts its own ranks.

    A job that is preempted or runs out of time is queued again by submitit, and goes on from its
    last checkpoint in the same directory.

    Args:
        config: of the executor.
        trainer: of the trials: how many GPUs a job asks for.
        folder: for submitit's own files; the nodes must see it.

    Raises:
        UserError: submitit is not installed, there is no SLURM here, or an option is unknown.
    """

    def __init__(
        self, config: SubmititExecutorConfig, trainer: TrainerConfig, folder: Path
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "executor=submitit needs the package submitit: pip install 'rmexp[submitit]'"
            ) from error
        self.slots = config.slots
        self._local = config.cluster == "local"
        if not self._local and shutil.which("srun") is None:
            raise UserError(
                "executor.cluster=slurm: no srun on this host; start the sweep on a login node, or "
                "use executor.cluster=local"
            )
        self._executor = submitit.AutoExecutor(
            folder=str(folder / "%j"),
            cluster=config.cluster,
            **{f"{config.cluster}_max_num_timeout": config.requeues},
        )
        options: dict[str, Any] = {
            "name": f"rmexp-{folder.parent.name}",
            "timeout_min": config.minutes,
            "nodes": 1,
            "tasks_per_node": 1,
            "cpus_per_task": config.cpus * trainer.devices,
            "gpus_per_node": trainer.devices if trainer.accelerator == "gpu" else 0,
        }
        if config.memory_gb is not None:
            options["mem_gb"] = config.memory_gb
        if not self._local:
            options |= {f"slurm_{name}": value for name, value in config.slurm.items()}
        try:
            self._executor.update_parameters(**options)
        except (ValueError, NameError) as error:
            raise UserError(f"executor.slurm: {' '.join(str(error).split())[:300]}") from error

    def start(self, job: ClusterJob) -> Any:
        """Hand a job in."""
        from submitit.core.utils import FailedJobError

        try:
            return self._executor.submit(job)
        except FailedJobError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"executor=submitit: the scheduler took no job: {reason}") from error

    def over(self, handle: Any) -> str | None:
        """The job's last state; None while it is queued, queued again, or running."""
        return f"job {handle.job_id} is {handle.state}" if handle.done() else None

    def stop(self, handle: Any) -> None:
        """Cancel the job; one on this machine is waited for."""
        if not self._local:
            handle.cancel(check=False)
            return
        process = handle._process
        if process.poll() is not None:
            return
        # Submitit's own process passes an interrupt on, then kills.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()

    def close(self) -> None:
        """Nothing: the jobs are stopped one by one."""
