"""A trial in several processes, one a device: started, connected, and ended together.

Each rank is a process of its own that is handed the trial's resolved config. The process that asks
for the trial trains nothing itself: it starts the ranks, passes on what rank 0 reports, and ends
all of them as soon as one is lost.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.trial.failure import FailureKind
from rmexp.trial.record import FILE_NAME, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig

# Seconds for the others to end by themselves once one has ended.
_GRACE = 20.0


@dataclass(frozen=True)
class RankTask:
    """What a rank is handed.

    Attributes:
        config: the trial's resolved config as plain data.
        directory: of the trial.
        identity: of the trial.
        resume_from, must_resume: as :func:`rmexp.trial.run.run_trial` takes them.
        rank: 0 runs the whole trial; the others join its training.
        parent: process that must not be outlived.
    """

    config: dict[str, Any]
    directory: Path
    identity: TrialIdentity
    resume_from: Path | None
    must_resume: bool
    rank: int
    parent: int


@dataclass(frozen=True)
class RankFailure:
    """Why a rank ended early."""

    kind: FailureKind
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Advanced:
    """How far rank 0 is within a step."""

    done: int
    total: int


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    failure: RankFailure | None = None


def under_torchrun() -> bool:
    """Whether torchrun has started this process, as one rank of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def check_can_start(config: TrialConfig) -> None:
    """This process may start the trial's ranks.

    Raises:
        UserError: it is itself a rank that somebody started, or the trial needs several machines.
    """
    if "LOCAL_RANK" in os.environ:
        raise UserError(
            "trainer.devices: the ranks of this trial are started by rmexp itself; run the command "
            "once, without torchrun, which is for a single 'rmexp train'"
        )
    if config.trainer.nodes > 1:
        raise UserError(
            f"trainer.nodes={config.trainer.nodes}: start the ranks on all machines by 'torchrun "
            f"--nnodes={config.trainer.nodes} --nproc-per-node={config.trainer.devices} ... "
            "-m rmexp train ...'"
        )


def run_ranks(
    config: TrialConfig,
    *,
    directory: Path,
    identity: TrialIdentity,
    report: Callable[[int, float], bool] | None,
    progress: Callable[[str], None],
    resume_from: Path | None,
    advance: Callable[[int, int], None] | None,
    must_resume: bool = False,
    program: str = "rmexp.trial.rank",
) -> TrialRecord:
    """Run a trial with ``trainer.devices`` ranks; arguments and result as of ``run_trial``.

    ``program`` is the module that a rank runs, such as a cheap one for a soak test. Rank 0 alone
    rates, reports, evaluates and writes; a failure of any rank is the trial's.
    """
    ranks: list[_Rank] = []
    try:
        for number in range(config.trainer.devices):
            task = RankTask(
                config.to_plain(),
                directory,
                identity,
                resume_from,
                must_resume,
                number,
                os.getpid(),
            )
            ranks.append(_start(task, config, program))
        first = _look_after(ranks, report, progress, advance)
    finally:
        interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt)
        _end(ranks, grace=5.0 if interrupted else 0.0)
    return _result(config, directory, identity, first)


def _start(task: RankTask, config: TrialConfig, program: str) -> _Rank:
    ours, theirs = Pipe()
    env = os.environ | {
        "RANK": str(task.rank),
        "LOCAL_RANK": str(task.rank),
        "WORLD_SIZE": str(config.trainer.devices),
        "MASTER_ADDR": "127.0.0.1",
        # The same modules, such as a rater of the user's beside the config.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path),
    }
    for name in ("NODE_RANK", "GROUP_RANK"):
        env.pop(name, None)
    if config.trainer.threads is None:
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // config.trainer.devices))
    # A process group of its own: what a rank has started ends with it, and Ctrl-C reaches it
    # through us.
    process = subprocess.Popen(
        [sys.executable, "-m", program, str(theirs.fileno())],
        env=env,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    theirs.close()
    ours.send(task)
    return _Rank(task.rank, process, ours)


def _look_after(
    ranks: list[_Rank],
    report: Callable[[int, float], bool] | None,
    progress: Callable[[str], None],
    advance: Callable[[int, int], None] | None,
) -> RankFailure | None:
    """Serve the ranks until all have ended, or one was lost; the first failure."""
    deadline = float("inf")
    alive = {rank.pipe: rank for rank in ranks}
    first: RankFailure | None = None
    while alive and time.monotonic() < deadline:
        ready = [alive[pipe] for pipe in wait(list(alive), timeout=1.0)]  # type: ignore[index]
        # Rank 0 last: its own failure may be only what another's end has led to.
        for rank in sorted(ready, key=lambda rank: -rank.number):
            try:
                message = rank.pipe.recv()
            except (EOFError, OSError):
                del alive[rank.pipe]
                first = first or rank.failure or _lost(rank)
                if rank.number == 0 and first is not None:
                    return first
                if rank.number == 0 or first is not None:
                    # The rest end by themselves, or never.
                    deadline = min(deadline, time.monotonic() + _GRACE)
                continue
            _serve(rank, ranks, message, report, progress, advance)
            first = first or rank.failure
    return first


def _serve(
    rank: _Rank,
    ranks: list[_Rank],
    message: Any,
    report: Callable[[int, float], bool] | None,
    progress: Callable[[str], None],
    advance: Callable[[int, int], None] | None,
) -> None:
    if isinstance(message, RankFailure):
        rank.failure = message
    elif isinstance(message, Advanced):
        if advance is not None:
            advance(message.done, message.total)
    elif isinstance(message, str):
        progress(message)
        if message == "train":
            # Rank 0 has rated and labelled: the others find it all stored.
            port = _free_port()
            for each in ranks:
                with suppress(OSError):
                    each.pipe.send(port)
    else:
        rank.pipe.send(bool(report(*message)) if report else False)


def _lost(rank: _Rank) -> RankFailure | None:
    """What an ended process says for itself; None where it has done its part."""
    try:
        code = rank.process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        return RankFailure("lost_worker", f"rank {rank.number} closed its pipe and does not end")
    if code == 0:
        return None
    what = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return RankFailure("lost_worker", f"rank {rank.number} lost: {what}")


def _end(ranks: list[_Rank], grace: float) -> None:
    """Leave no rank behind; rank 0 may close its tracker first where there is a grace."""
    if grace and ranks and ranks[0].process.poll() is None:
        ranks[0].process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            ranks[0].process.wait(grace)
    for rank in ranks:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.process.pid, signal.SIGKILL)
        rank.process.wait()
        rank.pipe.close()


def _result(
    config: TrialConfig, directory: Path, identity: TrialIdentity, first: RankFailure | None
) -> TrialRecord:
    record = TrialRecord.read(directory) if (directory / FILE_NAME).exists() else None
    if record is not None and (record.state != "failed" or first is None):
        return record
    if first is None:
        first = RankFailure("lost_worker", "rank 0 ended without a record")
    # What rank 0 met was another rank's end; that one's own words say why.
    plain: dict[str, Any] = {} if record is None else dict(vars(record))
    plain |= {"reason": first.reason, "traceback": first.traceback, "failure": first.kind}
    plain |= {"state": "failed", "config": config.to_plain(), "identity": identity}
    record = TrialRecord(**{"objective": None, **plain})
    record.write(directory)
    return record


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
