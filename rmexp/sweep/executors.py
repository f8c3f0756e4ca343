"""Where trials run: in this process, or in warm workers on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from rmexp.sweep.job import Ended, Executor, ReportHandler, TrialJob
from rmexp.sweep.schema import InlineExecutorConfig, ProcessExecutorConfig
from rmexp.trial.record import FILE_NAME

LOG = "log.txt"
_STOP_GRACE = 5.0


class InlineExecutor:
    """One trial after the other, in the process that asks: simplest to debug."""

    slots = 1

    def __init__(self) -> None:
        self.threads = _cores()
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
        )
        return [Ended(job)]

    def close(self) -> None:
        """Nothing runs between two waits."""


@dataclass
class _Running:
    job: TrialJob
    process: ForkServerProcess
    pipe: Connection


class ProcessExecutor:
    """Each trial in a fresh process, forked from a server that has the imports loaded.

    A fork takes milliseconds where importing torch, transformers and Lightning takes seconds, and
    no trial inherits another's state. The server never touches CUDA, so its children may (a
    forked process cannot use CUDA that its parent has initialised).
    """

    def __init__(self, slots: int | None) -> None:
        self.slots = slots or _default_slots()
        self.threads = max(1, _cores() // self.slots)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["rmexp.sweep.warm"])
        self._running: list[_Running] = []

    def submit(self, job: TrialJob) -> None:
        """Fork a worker for the job."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(job, theirs), name=f"rmexp-trial-{job.number}"
        )
        process.start()
        theirs.close()
        self._running.append(_Running(job, process, ours))

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

    def close(self) -> None:
        """Interrupt the workers, then kill those that do not listen."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.process.join(_STOP_GRACE)
            if running.process.is_alive():
                running.process.kill()
                running.process.join()
            running.pipe.close()
        self._running.clear()


def make_executor(config: InlineExecutorConfig | ProcessExecutorConfig) -> Executor:
    """The executor that the config names."""
    if isinstance(config, InlineExecutorConfig):
        return InlineExecutor()
    return ProcessExecutor(config.slots)


def _answer(running: _Running, on_report: ReportHandler) -> None:
    try:
        epoch, value = running.pipe.recv()
        running.pipe.send(on_report(running.job.number, epoch, value))
    except (EOFError, OSError):
        return  # The worker is gone; its sentinel tells the rest.


def _ended(running: _Running) -> Ended:
    running.process.join()
    running.pipe.close()
    code = running.process.exitcode
    if (running.job.directory / FILE_NAME).exists():
        return Ended(running.job)
    if code is not None and code < 0:
        return Ended(running.job, f"worker lost: killed by {signal.Signals(-code).name}")
    tail = _last_line(running.job.directory / LOG)
    return Ended(running.job, f"worker lost: exit code {code}" + (f": {tail}" if tail else ""))


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _work(job: TrialJob, pipe: Connection) -> None:
    """The worker's life: log to the trial's folder, run, exit."""
    # Ctrl-C goes to the whole terminal group; the controller decides and terminates us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job.directory.mkdir(parents=True, exist_ok=True)
    log = os.open(job.directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    lock = threading.Lock()
    threading.Thread(target=_die_with_controller, args=(os.getppid(),), daemon=True).start()

    from rmexp.trial.run import run_trial
    from rmexp.trial.schema import trial_config

    def report(epoch: int, value: float) -> bool:
        with lock:
            pipe.send((epoch, value))
            return bool(pipe.recv())

    run_trial(
        trial_config(job.config),
        directory=job.directory,
        identity=job.identity,
        report=report,
        progress=lambda step: print(step, flush=True),
    )


def _die_with_controller(server: int) -> None:
    # The fork server ends with the controller, however that dies; an orphan is adopted by another.
    import time

    while os.getppid() == server:
        time.sleep(0.5)
    os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_slots() -> int:
    # Small models gain little from a second thread and much from a second trial.
    return max(1, min(_cores(), 8))
