"""One rank of a trial, started by ``rmexp.trial.ranks`` as ``python -m rmexp.trial.rank FD``."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from rmexp.trial.lifeline import die_with
from rmexp.trial.ranks import Advanced, RankFailure, RankTask
from rmexp.trial.schema import trial_config


def main(descriptor: int) -> int:
    """Take the task, run it, say how it failed; the exit code."""
    pipe = Connection(descriptor)
    os.set_inheritable(descriptor, False)
    task: RankTask = pipe.recv()
    die_with(task.parent)
    return _rank_zero(task, pipe) if task.rank == 0 else _further_rank(task, pipe)


def _rank_zero(task: RankTask, pipe: Connection) -> int:
    from rmexp.trial.run import run_here

    def report(epoch: int, value: float) -> bool:
        pipe.send((epoch, value))
        return bool(pipe.recv())

    def progress(step: str) -> None:
        pipe.send(step)
        if step == "train":
            os.environ["MASTER_PORT"] = str(pipe.recv())

    record = run_here(
        trial_config(task.config),
        directory=task.directory,
        identity=task.identity,
        report=report,
        progress=progress,
        resume_from=task.resume_from,
        must_resume=task.must_resume,
        advance=lambda done, total: pipe.send(Advanced(done, total)),
    )
    if record.state == "failed":
        pipe.send(RankFailure(record.failure or "other", record.reason, record.traceback))
    return 0


def _further_rank(task: RankTask, pipe: Connection) -> int:
    from rmexp.reward.ranks import StoppedByRankZero
    from rmexp.trial.failure import failure_kind
    from rmexp.trial.run import join_training, one_line, traceback_end

    os.environ["MASTER_PORT"] = str(pipe.recv())
    try:
        join_training(
            trial_config(task.config),
            directory=task.directory,
            resume=task.resume_from is not None,
        )
    except StoppedByRankZero:
        return 0
    except Exception as error:
        reason = f"rank {task.rank}: {one_line(error)}"
        pipe.send(RankFailure(failure_kind(error), reason, traceback_end(error)))
        return 1
    return 0


if __name__ == "__main__":
    # Not through the interpreter's end: a library's thread must not keep a rank alive, whose
    # part is done.
    code = main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
