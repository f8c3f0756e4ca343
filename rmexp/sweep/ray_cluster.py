"""Jobs as Ray tasks, on whatever nodes a Ray cluster has."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from rmexp.errors import UserError
from rmexp.sweep.schema import RayExecutorConfig
from rmexp.trial.schema import TrainerConfig

if TYPE_CHECKING:
    from rmexp.sweep.cluster_job import ClusterJob


class RayCluster:
    """Each trial a task with the CPUs and GPUs of its ranks, in a process of its own.

    Ray restarts nothing by itself: the study decides what runs again, in a new directory.

    Args:
        config: of the executor.
        trainer: of the trials: their ranks, and whether they need GPUs.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, or no node has room for a
            trial.
    """

    def __init__(self, config: RayExecutorConfig, trainer: TrainerConfig) -> None:
        # A driver started by `uv run` would have Ray make each worker's environment anew.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        # No word to anybody about what runs here.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "executor=ray needs the package ray: pip install 'rmexp[ray]'"
            ) from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _must_answer(config.address)
            try:
                # Without an address Ray would join what RAY_ADDRESS names or the last cluster that
                # was started on this machine.
                ray.init(address=config.address or "local", log_to_driver=False)
            except ConnectionError as error:
                raise UserError(
                    f"executor.address={config.address}: no Ray cluster answers: {error}"
                ) from error
        self._cpus = config.cpus * trainer.devices
        self._gpus = trainer.devices if trainer.accelerator == "gpu" else 0
        self._slots = config.slots
        if self.slots < 1:
            self.close()
            raise UserError(
                f"executor=ray: no node has room for a trial of {self._cpus:g} CPUs and "
                f"{self._gpus} GPUs; set executor.cpus or trainer.devices to what a node has"
            )

    @property
    def slots(self) -> int:
        """Trials that the living nodes have room for, unless a number is given."""
        if self._slots is not None:
            return self._slots
        return sum(self._room(n["Resources"]) for n in self._ray.nodes() if n["Alive"])

    def _room(self, resources: dict[str, float]) -> int:
        room = int(resources.get("CPU", 0) // self._cpus)
        return min(room, int(resources.get("GPU", 0) // self._gpus)) if self._gpus else room

    def start(self, job: ClusterJob) -> Any:
        """Hand a task in."""
        task = self._ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            # A fresh process each: no trial inherits another's state or GPU memory.
            max_calls=1,
            max_retries=0,
            name=f"rmexp-trial-{job.job.number}",
            runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
        )(_run)
        return task.remote(job, os.getcwd())

    def over(self, handle: Any) -> str | None:
        """How the task ended; None while it waits or runs."""
        done, _ = self._ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            self._ray.get(handle)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        return "the task ended without a record"

    def stop(self, handle: Any) -> None:
        """Kill the task's process."""
        self._ray.cancel(handle, force=True)

    def close(self) -> None:
        """Leave the cluster; stops a Ray that was started here."""
        if self._ours:
            self._ray.shutdown()


def _must_answer(address: str | None) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"executor.address={address}: no Ray cluster answers: {error}") from error


def _run(job: ClusterJob, where: str) -> None:
    # The config's relative paths are meant from the controller's working directory. A node without
    # it may still have all that is given by whole paths.
    with contextlib.suppress(OSError):
        os.chdir(where)
    job()
