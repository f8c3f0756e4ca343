"""Ten kills and a stop at random moments of controllers, workers and ranks, for each storage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_jobs import is_alive
from sweep_doubles import controller_of

from benchmarks.postgres_server import postgres, programs
from benchmarks.soak import Soak, cheap_config, cheap_trial
from rmexp.sweep.worker_processes import ProcessExecutor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def storage(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "postgresql":
        if programs() is None:
            pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
        with postgres() as url:
            yield url
    else:
        yield None if request.param == "sqlite" else "journal"


def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path, storage: str | None) -> None:
    soak = Soak(
        tmp_path / "studies" / "soak",
        storage,
        trials=20,
        kills=10,
        stops=1,
        stop_seconds=8,
        lease=3,
        seed=1,
    )
    result = soak.run(limit=400)
    assert not result["faults"], result
    assert result["finished"] == 20
    assert sum(n for what, n in result["blows"].items() if what.startswith("kill")) == 10


class KillsARank(ProcessExecutor):
    """Kills a rank of the first trial, once both of its ranks run."""

    def __init__(self, rank: int, trials: Path) -> None:
        super().__init__(1, ranks=2, run=cheap_trial)
        self.first, self.rank = trials / "0000", rank
        self.ranks: list[int] = []

    def wait(self, on_report: Any, timeout: float) -> Any:
        notes = [self.first / f"rank-{number}" for number in (0, 1)]
        if not self.ranks and all(note.exists() and note.read_text() for note in notes):
            self.ranks = [int(note.read_text()) for note in notes]
            os.kill(self.ranks[self.rank], signal.SIGKILL)
        return super().wait(on_report, 0.01)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_loses_its_trial_and_the_point_runs_again(tmp_path: Path, rank: int) -> None:
    executor = KillsARank(rank, tmp_path / "studies/s/trials")
    controller, study, _ = controller_of(tmp_path, executor, trials=2)
    controller.config_for = lambda values: cheap_config(**values)
    controller.run()
    first, second, third = study.get_trials()
    assert first.user_attrs["failure"] == "lost_worker"
    assert first.user_attrs["reason"] == f"rank {rank} lost: killed by SIGKILL"
    assert [second.state.name, third.state.name] == ["COMPLETE"] * 2
    assert second.params == first.params != third.params
    assert not any(is_alive(pid) for pid in executor.ranks)
