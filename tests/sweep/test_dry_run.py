"""The dry run tells what the sweep would do next, and writes nothing."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from sweep_doubles import SPACE, FakeExecutor, controller_of

from benchmarks.postgres_server import postgres, programs
from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.sweep.schema import SamplerConfig, SweepConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.storages import open_storage
from rmexp.sweep.study import StudyFolder, open_study

INTERVAL = "gamma=interval(0.0,1.0)"
RANDOM = "sweep.sampler.kind=random"


class DryRun:
    """Runs ``rmexp sweep --dry-run study=s`` in the folder of a test."""

    def __init__(self, quick: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self._quick, self._capsys = quick, capsys

    def __call__(self, *words: str) -> str:
        main(["sweep", *self._quick, "study=s", *words, "--dry-run"])
        return self._capsys.readouterr().out

    def points(self, *words: str) -> list[str]:
        """The points as printed, of a space of gamma alone."""
        _, _, table = self(*words).partition(" points\n")
        return re.findall(r"│ (\d\S*) +│\n", table)


@pytest.fixture
def dry_run(quick: list[str], capsys: pytest.CaptureFixture[str]) -> DryRun:
    return DryRun(quick, capsys)


def _run(tmp_path: Path, trials: int, space: Space = SPACE, **sweep) -> list[str]:
    """Run the study to its target; the new points as the dry run prints them."""
    executor = sweep.pop("executor", None) or FakeExecutor()
    sweep.setdefault("sampler", SamplerConfig(kind="random"))
    controller, _, _ = controller_of(tmp_path / "outputs", executor, space, trials=trials, **sweep)
    controller.run()
    return [f"{job.config['gamma']:.4g}" for job in executor.submitted]


def test_the_first_points_are_those_that_are_run_first(tmp_path: Path, dry_run: DryRun) -> None:
    shown = dry_run.points(INTERVAL, RANDOM, "sweep.trials=6")
    assert len(shown) == 5
    assert not (tmp_path / "outputs").exists()
    assert _run(tmp_path, 6)[:5] == shown


def test_a_study_that_has_begun_shows_what_comes_next(tmp_path: Path, dry_run: DryRun) -> None:
    begun = _run(tmp_path, 3)
    shown = dry_run.points(INTERVAL, RANDOM, "sweep.trials=7")
    assert len(shown) == 4
    assert not set(shown) & set(begun)
    assert _run(tmp_path, 7) == shown


def test_a_point_that_runs_again_comes_first(tmp_path: Path, dry_run: DryRun) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, 3, executor=FakeExecutor(crash_after=0, slots=1))
    shown = dry_run.points(INTERVAL, RANDOM, "sweep.trials=3")
    assert _run(tmp_path, 3) == shown


def test_the_points_of_a_dead_controller_come_first(tmp_path: Path, dry_run: DryRun) -> None:
    _, study, _ = controller_of(tmp_path / "outputs", FakeExecutor(), trials=3)
    trial = study.ask(SPACE.distributions)
    trial.set_user_attr("controller", "dead")
    study.set_user_attr("controller:dead", {"host": "h", "pid": 1, "beat": 1, "left": True})
    shown = dry_run.points(INTERVAL, RANDOM, "sweep.trials=3")
    assert shown[0] == f"{trial.params['gamma']:.4g}"
    assert len(shown) == 3


def test_a_grid_counts_its_points(tmp_path: Path, dry_run: DryRun) -> None:
    values = optuna.distributions.CategoricalDistribution([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    line = Space((Dimension("gamma", values),))
    words = ["gamma=choice(0.0,0.1,0.2,0.3,0.4,0.5)", "sweep.sampler.kind=grid", "sweep.trials=50"]
    assert "study s: 6 trials" in dry_run(*words)
    done = _run(tmp_path, 2, line, sampler=SamplerConfig(kind="grid"))
    out = dry_run(*words)
    assert re.search("expected time: about .* for 4 trials", out)
    shown = dry_run.points(*words)
    assert len(shown) == 4
    assert not set(shown) & set(done)


def test_the_expected_time_is_that_of_the_trials_so_far(tmp_path: Path, dry_run: DryRun) -> None:
    assert "expected time: unknown" in dry_run(INTERVAL)
    folder = StudyFolder.of(tmp_path / "outputs", "s")
    folder.make()
    study = open_study(folder, SweepConfig())
    for seconds in (60, 120):
        trial = optuna.trial.create_trial(
            value=0.5, params={"gamma": seconds / 120}, distributions=SPACE.distributions
        )
        trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=seconds)
        study.add_trial(trial)
    out = dry_run(INTERVAL, "sweep.trials=6", "executor.slots=2")
    assert "about 3 min 0 s for 4 trials (90 s a trial over 2 so far, 2 at once)" in out
    out = dry_run(INTERVAL, "sweep.trials=2")
    assert "no point to draw" in out
    assert "expected time: none, as 2 trials have finished" in out


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_storage_that_is_not_made_yet_stays_so(
    tmp_path: Path, dry_run: DryRun, scheme: str
) -> None:
    out = dry_run(INTERVAL, f"sweep.storage={scheme}:///{tmp_path}/new")
    assert "expected time: unknown" in out
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.slow
def test_an_empty_database_of_a_server_stays_empty(dry_run: DryRun) -> None:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres() as url:
        word = f"sweep.storage='{url}'"
        assert "expected time: unknown" in dry_run(INTERVAL, word)
        engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        assert sqlalchemy.inspect(engine).get_table_names() == []
        # Nor is another study of the same database in the way.
        optuna.create_study(storage=open_storage(url), study_name="other")
        assert "expected time: unknown" in dry_run(INTERVAL, word)
        engine.dispose()


def test_other_directions_are_refused(tmp_path: Path, dry_run: DryRun) -> None:
    _run(tmp_path, 1)
    with pytest.raises((UserError, SystemExit)):
        dry_run(INTERVAL, "sweep.direction=minimize")
