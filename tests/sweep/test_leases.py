"""Several controllers in one study: who lives, who owns a trial, who is refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sweep_doubles import FakeExecutor, controller_of

from benchmarks.postgres_server import postgres, programs
from rmexp.sweep.claims import Claims
from rmexp.sweep.failures import Failure
from rmexp.sweep.leases import Observer, Registration, registered
from rmexp.sweep.ledger import CONTROLLER, DIRECTORY, RETRY_OF, WITHDRAWN, Ledger, Point, params_key
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import StudyFolder, open_study

SPACE = Space((Dimension("gamma", optuna.distributions.FloatDistribution(0.0, 1.0)),))
LOST = Failure("lost_worker", "gone")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest) -> SweepConfig:
    if request.param == "postgresql":
        return SweepConfig(storage=request.getfixturevalue("server"))
    return SweepConfig(storage=None if request.param == "sqlite" else "journal")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    # A name of its own, as all share the server's database.
    folder = StudyFolder(tmp_path / "studies" / tmp_path.name)
    folder.make()
    return folder


def _claims(folder: StudyFolder, config: SweepConfig, name: str, target: int = 5) -> Claims:
    study = open_study(folder, config)
    ledger = Ledger(study)
    ledger.refresh()
    return Claims(study, ledger, name, target)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _beat(study: optuna.Study, name: str, beat: int, host: str = "elsewhere", **more) -> None:
    study.set_user_attr(f"controller:{name}", {"host": host, "pid": 1, "beat": beat, **more})


def test_a_counter_that_stands_still_is_judged_by_the_observers_own_clock(folder) -> None:
    study = open_study(folder, SweepConfig())
    clock = Clock()
    observer = Observer("me", folder.locks, lease=60, clock=clock)
    _beat(study, "other", 1)
    for _ in range(5):
        assert observer.living(study) == {"me", "other"}
        clock.now += 10
    _beat(study, "other", 2)
    for _ in range(6):
        assert observer.living(study) == {"me", "other"}
        clock.now += 10
    observer.living(study)
    assert observer.living(study) == {"me"}
    # A controller that wakes is alive again; its trials are gone, its counter moves.
    _beat(study, "other", 3)
    assert observer.living(study) == {"me", "other"}


def test_a_controller_is_judged_by_its_own_lease_not_by_the_observers(folder) -> None:
    """One that joins in with a short lease must not give up the trials of a healthy one."""
    study = open_study(folder, SweepConfig())
    clock = Clock()
    observer = Observer("me", folder.locks, lease=5, clock=clock)
    _beat(study, "slow", 1, lease=60)
    _beat(study, "quick", 1, lease=3)
    for _ in range(59):
        assert "slow" in observer.living(study)
        clock.now += 1
    assert observer.living(study) == {"me", "slow"}
    clock.now += 1
    observer.living(study)
    clock.now += 1
    assert observer.living(study) == {"me"}


def test_a_controller_tells_its_lease(folder, config) -> None:
    study = open_study(folder, config)
    registration = Registration(study, folder.locks)
    with registration.held(7):
        assert registered(study)[registration.id]["lease"] == 7


def test_an_observer_that_was_stopped_itself_does_not_count_its_absence(folder) -> None:
    study = open_study(folder, SweepConfig())
    clock = Clock()
    observer = Observer("me", folder.locks, lease=60, clock=clock)
    _beat(study, "other", 1)
    observer.living(study)
    clock.now += 3600
    assert observer.living(study) == {"me", "other"}


def test_a_controller_that_left_is_dead_at_once(folder) -> None:
    study = open_study(folder, SweepConfig())
    registration = Registration(study, folder.locks)
    observer = Observer("me", folder.locks, lease=60)
    with registration.held(60):
        assert registration.alone
        assert observer.living(study) == {"me", registration.id}
        assert Registration(study, folder.locks).id != registration.id
        second = Registration(study, folder.locks)
        with second.held(60):
            assert not second.alone
    assert observer.living(study) == {"me"}


def test_the_counter_moves(folder, config) -> None:
    study = open_study(folder, config)
    registration = Registration(study, folder.locks)
    with registration.held(0.06):
        first = registered(study)[registration.id]["beat"]
        deadline = time.monotonic() + 20
        while registered(study)[registration.id]["beat"] < first + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _hold(root: str, ready) -> None:
    study = open_study(StudyFolder(Path(root)), SweepConfig())
    with Registration(study, StudyFolder(Path(root)).locks).held(3600):
        ready.set()
        time.sleep(3600)


@pytest.mark.slow
def test_a_death_on_the_same_host_is_seen_at_once_a_stop_is_not(folder) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(folder.root), ready), daemon=True)
    process.start()
    assert ready.wait(60)
    study = open_study(folder, SweepConfig())
    observer = Observer("me", folder.locks, lease=3600)
    assert len(observer.living(study)) == 2
    os.kill(process.pid, signal.SIGSTOP)
    assert len(observer.living(study)) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert observer.living(study) == {"me"}


def test_claims_never_overshoot_however_many_race(folder, config) -> None:
    claims = [_claims(folder, config, f"c{i}", target=3) for i in range(4)]
    started: list[int] = []
    barrier = threading.Barrier(4)

    def race(one: Claims) -> None:
        barrier.wait()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            one.ledger.refresh()
            if not one.free:
                if one.ledger.finished + len(started) >= 3:
                    return
                continue
            trial = one.start(None)
            if trial is not None:
                SPACE.suggest(trial)
                started.append(trial.number)

    threads = [threading.Thread(target=race, args=(c,)) for c in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = claims[0].study.get_trials()
    running = [t for t in trials if t.state.name == "RUNNING"]
    assert sorted(started) == [t.number for t in running]
    assert len(running) == 3
    assert all(t.user_attrs.get(WITHDRAWN) for t in trials if t.state.name == "FAIL")


def test_a_trial_belongs_to_its_controller_from_its_first_moment(folder, config) -> None:
    claims = _claims(folder, config, "mine")
    claims.start(None)
    (trial,) = claims.study.get_trials()
    assert trial.user_attrs[CONTROLLER] == "mine"
    assert trial.params == {}


def test_a_trial_that_was_given_up_cannot_be_told(folder, config) -> None:
    """Trap 33: the controller that wakes is refused, and its successor's number is another."""
    asleep, observer = _claims(folder, config, "asleep"), _claims(folder, config, "observer")
    trial = asleep.start(None)
    SPACE.suggest(trial)
    assert asleep.note(trial, {DIRECTORY: "trials/0000"})
    observer.ledger.refresh()
    assert observer.fail(observer.ledger.running[0], LOST, retries=1)
    assert not observer.fail(observer.ledger.trials[0], LOST, retries=1)
    observer.ledger.refresh()
    point = observer.ledger.owed({})
    successor = observer.start(point)
    assert SPACE.suggest(successor) == trial.params
    assert successor.number == 1
    assert not asleep.complete(trial, [0.9])
    assert not asleep.prune(trial)
    assert not asleep.note(trial, {"metrics": {}})
    assert observer.complete(successor, [0.5])
    assert [t.state.name for t in observer.study.get_trials()] == ["FAIL", "COMPLETE"]


def test_an_ended_trial_cannot_be_failed(folder, config) -> None:
    owner, observer = _claims(folder, config, "owner"), _claims(folder, config, "observer")
    trial = owner.start(None)
    observer.ledger.refresh()
    seen = observer.ledger.running[0]
    assert owner.complete(trial, [1.0])
    assert not observer.fail(seen, LOST, retries=1)
    assert observer.study.best_value == 1.0


def test_two_who_take_up_the_same_point_agree_on_the_first(folder, config) -> None:
    one, two = _claims(folder, config, "one"), _claims(folder, config, "two")
    lost = one.start(None)
    SPACE.suggest(lost)
    one.note(lost, {DIRECTORY: "trials/0000"})
    one.fail(lost, LOST, retries=1)
    one.ledger.refresh()
    two.ledger.refresh()
    point = two.ledger.owed({})
    assert point == one.ledger.owed({})
    assert one.start(point) is not None
    # The second has not seen the first's claim when it decides to claim, and withdraws.
    assert two.start(point) is None
    assert two.ledger.owed({}) is None
    retries = [t for t in one.study.get_trials() if RETRY_OF in t.user_attrs]
    assert [t.state.name for t in retries] == ["RUNNING", "FAIL"]


def test_a_withdrawn_retry_is_still_owed(folder, config) -> None:
    one = _claims(folder, config, "one", target=2)
    first, second = one.start(None), one.start(None)
    SPACE.suggest(first)
    SPACE.suggest(second)
    one.fail(first, LOST, retries=1)
    one.ledger.refresh()
    point = one.ledger.owed({})
    other = _claims(folder, config, "two", target=2)
    assert other.start(None) is not None
    assert one.start(point) is None
    assert one.ledger.owed({}) == point


def test_a_point_is_run_again_once(folder, config) -> None:
    claims = _claims(folder, config, "one")
    point: Point | None = None
    for expected in (True, False):
        trial = claims.start(point)
        SPACE.suggest(trial)
        claims.note(trial, {DIRECTORY: f"trials/{trial.number:04d}"})
        claims.fail(trial, LOST, retries=1)
        claims.ledger.refresh()
        point = claims.ledger.owed({})
        assert (point is not None) == expected


def test_points_of_the_user_come_first_and_once(folder, config) -> None:
    claims = _claims(folder, config, "one")
    points = [{"gamma": 0.25}, {"gamma": 0.75}]
    listed = {params_key(point): point for point in points}
    got = []
    while (point := claims.ledger.owed(listed)) is not None:
        trial = claims.start(point)
        got.append(SPACE.suggest(trial))
    assert got == points


def test_a_second_claim_whose_controller_was_killed_is_withdrawn(tmp_path: Path) -> None:
    """Killed between its claim and its withdrawal: to owe its point again would run it twice."""
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    one = Claims(study, Ledger(study), "one", 1)
    two = Claims(study, Ledger(study), "two", 1)
    lost = one.start(None)
    SPACE.suggest(lost)
    one.note(lost, {DIRECTORY: "trials/0000"})
    one.fail(lost, LOST, retries=1)
    one.ledger.refresh()
    two.ledger.refresh()
    point = one.ledger.owed({})
    assert point is not None
    assert one.start(point) is not None
    two._withdraw = lambda trial_id: None  # type: ignore[method-assign]
    assert two.start(point) is None
    # Both claims are orphans now, and a third controller takes them up.
    controller.run()
    finished = [t for t in study.get_trials() if t.state.name == "COMPLETE"]
    assert [t.params for t in finished] == [lost.params]
    second = study.get_trials()[2]
    assert second.user_attrs[WITHDRAWN]
    assert not any(t.user_attrs.get(RETRY_OF) == second.number for t in study.get_trials())


def test_a_trial_that_was_given_up_while_its_controller_slept_is_not_drawn(folder, config) -> None:
    claims = _claims(folder, config, "one")
    trial = claims.start(None)
    other = _claims(folder, config, "two")
    other.ledger.refresh()
    assert other.fail(other.ledger.running[trial.number], LOST, retries=1)
    assert not claims.draw(trial, SPACE)
    assert claims.draw(claims.start(None), SPACE)
