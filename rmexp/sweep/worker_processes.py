"""Warm worker processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.sweep.job import LOG, Ended, ReportHandler, TrialJob, last_line
from rmexp.trial.lifeline import die_with
from rmexp.trial.record import FILE_NAME

_STOP_GRACE = 5.0


@dataclass
class _Running:
    job: TrialJob
    process: ForkServerProcess
    pipe: Connection
    slot: int


class ProcessExecutor:
    """Each trial in a fresh process, forked from a server that has the imports loaded.

    A fork takes milliseconds where importing torch, transformers and Lightning takes seconds, and
    no trial inherits another's state. Models are loaded by each trial, from files that the system
    keeps in memory and maps: what is not trained, and not of another dtype than its file, is there
    once for all trials. The server never touches CUDA, so its children may (a
    forked process cannot use CUDA that its parent has initialised). Every worker leads a process
    group of its own, so that a trial's ranks end with it.

    Args:
        slots: trials at once; None is one for each ``ranks`` GPUs, or up to 8 on CPU cores.
        ranks: processes of a trial.
        gpus: ids of the GPUs to share out, ``ranks`` to a slot; empty for the CPU.
        run: another ``run_trial``, a module's function; such as a cheap one for a soak test.

    Raises:
        UserError: more GPUs are asked for than there are.
    """

    def __init__(
        self,
        slots: int | None,
        ranks: int = 1,
        gpus: Sequence[str] = (),
        run: Callable[..., Any] | None = None,
    ) -> None:
        self._run = run
        self.slots = slots or (len(gpus) // ranks if gpus else _default_slots(ranks))
        if gpus and (self.slots < 1 or self.slots * ranks > len(gpus)):
            raise UserError(
                f"executor.slots: {max(self.slots, 1)} trials of trainer.devices={ranks} need more "
                f"than the {len(gpus)} GPUs here"
            )
        self.threads = max(1, cores() // (self.slots * ranks))
        self._gpus = [",".join(gpus[i * ranks : (i + 1) * ranks]) for i in range(self.slots)]
        self._context = multiprocessing.get_context("forkserver")
        if run is None:
            self._context.set_forkserver_preload(["rmexp.sweep.warm"])
        self._running: list[_Running] = []

    def submit(self, job: TrialJob) -> None:
        """Fork a worker for the job."""
        ours, theirs = self._context.Pipe()
        slot = min(set(range(self.slots)) - {r.slot for r in self._running})
        process = self._context.Process(
            target=_work,
            args=(job, theirs, self._gpus[slot], self._run),
            name=f"rmexp-trial-{job.number}",
        )
        process.start()
        theirs.close()
        self._running.append(_Running(job, process, ours, slot))

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        """Answer reports and collect the workers that are done."""
        if not self._running:
            return []
        ready = wait(
            [r.pipe for r in self._running] + [r.process.sentinel for r in self._running], timeout
        )
        ended = []
        for running in list(self._running):
            if running.pipe in ready:
                _answer(running, on_report)
            if running.process.sentinel in ready:
                self._running.remove(running)
                ended.append(_ended(running))
        return ended

    def has_begun(self, number: int) -> bool:
        """Always: nothing waits here."""
        return True

    def cancel(self, number: int) -> None:
        """Kill a trial's worker and its ranks."""
        for running in self._running:
            if running.job.number == number:
                _kill_group(running.process)

    def close(self) -> None:
        """Interrupt the workers, then kill those that do not listen."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.process.join(_STOP_GRACE)
            _kill_group(running.process)
            running.process.join()
            running.pipe.close()
        self._running.clear()


def _kill_group(process: ForkServerProcess) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        # It has not come to making its group yet.
        process.kill()


def _answer(running: _Running, on_report: ReportHandler) -> None:
    # The worker may be gone; its sentinel tells the rest. What the storage raises is no such end:
    # a worker whose report was swallowed would wait for its verdict for ever.
    try:
        epoch, value = running.pipe.recv()
    except (EOFError, OSError):
        return
    prune = on_report(running.job.number, epoch, value)
    with contextlib.suppress(OSError):
        running.pipe.send(prune)


def _ended(running: _Running) -> Ended:
    running.process.join()
    # Its ranks, where it has left some.
    _kill_group(running.process)
    running.pipe.close()
    code = running.process.exitcode
    if (running.job.directory / FILE_NAME).exists():
        return Ended(running.job)
    if code is not None and code < 0:
        return Ended(running.job, f"worker lost: killed by {signal.Signals(-code).name}")
    tail = last_line(running.job.directory)
    return Ended(running.job, f"worker lost: exit code {code}" + (f": {tail}" if tail else ""))


def _work(
    job: TrialJob, pipe: Connection, gpus: str, run: Callable[..., Any] | None = None
) -> None:
    """The worker's life: log to the trial's folder, run, exit."""
    os.setpgid(0, 0)
    die_with(os.getppid())
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # Ctrl-C goes to the whole terminal group; the controller decides and terminates us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job.directory.mkdir(parents=True, exist_ok=True)
    log = os.open(job.directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    lock = threading.Lock()

    from rmexp.trial.schema import trial_config

    if run is None:
        from rmexp.trial.run import run_trial

        run = run_trial

    def report(epoch: int, value: float) -> bool:
        try:
            with lock:
                pipe.send((epoch, value))
                return bool(pipe.recv())
        except (OSError, EOFError):
            # The controller is dead and this trial with it: a record would tell a failure of the
            # trial's own, which it is not, and keep its point from being run again.
            os.killpg(0, signal.SIGKILL)
            raise

    run(
        trial_config(job.config),
        directory=job.directory,
        identity=job.identity,
        report=report,
        progress=lambda step: print(step, flush=True),
        resume_from=job.resume_from,
    )


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """Ids of the NVIDIA GPUs that this process may use, found without touching CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(gpu.strip() for gpu in visible.split(",") if gpu.strip())
    found = (p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted(found, key=int))


def _default_slots(ranks: int) -> int:
    # Small models gain little from a second thread and much from a second trial.
    return max(1, min(cores() // ranks, 8))
