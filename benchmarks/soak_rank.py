"""A rank of the soak's trials: started, connected and ended as a real one, with nothing to learn.

Started by ``rmexp.trial.ranks`` as ``python -m benchmarks.soak_rank FD``.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from multiprocessing.connection import Connection

from rmexp.trial.lifeline import die_with
from rmexp.trial.ranks import RankFailure, RankTask
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import trial_config

_STEPS = 10


def main(descriptor: int) -> int:
    """Take the task, train for nothing, report; the exit code."""
    pipe = Connection(descriptor)
    os.set_inheritable(descriptor, False)
    task: RankTask = pipe.recv()
    die_with(task.parent)
    (task.directory / f"rank-{task.rank}").write_text(str(os.getpid()))
    if task.rank:
        _answer(int(pipe.recv()))
        return 0
    try:
        _lead(task, pipe)
    except ConnectionError as error:
        # As a collective that has lost a member.
        pipe.send(RankFailure("other", f"rank 0: {error!r}"))
        return 1
    return 0


def _lead(task: RankTask, pipe: Connection) -> None:
    config = trial_config(task.config)
    pipe.send("train")
    with socket.create_server(("127.0.0.1", int(pipe.recv()))) as server:
        server.settimeout(30)
        other, _ = server.accept()
    pause = random.Random(config.gamma).uniform(0.05, 0.3) / _STEPS
    with other:
        for epoch in (1, 2):
            for _ in range(_STEPS):
                time.sleep(pause)
                other.sendall(b".")
                if not other.recv(1):
                    raise ConnectionError("the other rank is gone")
            pipe.send((epoch, config.gamma))
            pipe.recv()
    TrialRecord(
        "complete",
        "",
        config.gamma,
        config.to_plain(),
        task.identity,
        objectives=[config.gamma],
    ).write(task.directory)


def _answer(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            other = socket.create_connection(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    with other:
        while step := other.recv(1):
            other.sendall(step)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
