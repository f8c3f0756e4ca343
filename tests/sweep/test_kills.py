"""Ten kills and a stop at random moments of controllers and workers, for each storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.postgres_server import postgres, programs
from benchmarks.soak import Soak

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
