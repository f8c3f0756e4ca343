"""Grids: each point once, whoever runs it, and an end where none is left."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from sweep_doubles import SPACE, FakeExecutor, controller_of, states

from rmexp.errors import UserError
from rmexp.sweep.ledger import CONTROLLER, DIRECTORY, ENQUEUED, POINT, USED, params_key
from rmexp.sweep.samplers import listed_points
from rmexp.sweep.schema import SamplerConfig, SweepConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.trial.schema import TrialConfig

GRID = SamplerConfig(kind="grid")
GAMMAS = [0.1, 0.2, 0.3]
CHOICES = optuna.distributions.CategoricalDistribution(GAMMAS)
EPOCHS = optuna.distributions.IntDistribution(1, 3, step=2)
PLANE = Space((Dimension("gamma", CHOICES), Dimension("epochs", EPOCHS)))
LINE = Space((Dimension("gamma", CHOICES),))


def _sweep(**given: object) -> SweepConfig:
    return SweepConfig.model_validate({"sampler": GRID, **given})


def test_a_grid_lists_every_point_once_behind_the_users_own() -> None:
    points = listed_points(_sweep(enqueue=[{"gamma": 0.3, "epochs": 1}, {"gamma": 0.2}]), PLANE)
    assert points[:2] == [{"gamma": 0.3, "epochs": 1}, {"gamma": 0.2}]
    whole = [(p["gamma"], p["epochs"]) for p in points if len(p) == 2]
    assert sorted(whole) == [(g, e) for g in GAMMAS for e in (1, 3)]


def test_a_part_of_a_grid_is_not_its_first_corner() -> None:
    wide = Space((Dimension("gamma", optuna.distributions.IntDistribution(0, 99)),))
    order = [p["gamma"] for p in listed_points(_sweep(), wide)]
    assert sorted(order) == list(range(100))
    assert max(order[:20]) > 60
    assert order == [p["gamma"] for p in listed_points(_sweep(), wide)]
    other = SamplerConfig(kind="grid", seed=1)
    assert order != [p["gamma"] for p in listed_points(_sweep(sampler=other), wide)]


def test_a_grid_too_large_to_hold_is_refused() -> None:
    wide = Space((Dimension("gamma", optuna.distributions.IntDistribution(0, 1_000_000)),))
    with pytest.raises(UserError, match="1,000,001 points"):
        listed_points(_sweep(), wide)


def test_a_grid_ends_at_its_last_point(tmp_path: Path) -> None:
    executor = FakeExecutor()
    controller, study, events = controller_of(tmp_path, executor, LINE, trials=50, sampler=GRID)
    controller.run()
    assert sorted(j.config["gamma"] for j in executor.submitted) == GAMMAS
    assert states(study) == ["COMPLETE"] * 3
    assert {event.target for event in events} == {3}


def test_a_point_that_fails_for_good_is_neither_repeated_nor_counted(tmp_path: Path) -> None:
    def outcome(job):
        return RuntimeError("broken") if job.config["gamma"] == 0.2 else 0.5

    executor = FakeExecutor(outcome)
    controller, study, events = controller_of(
        tmp_path, executor, LINE, trials=3, sampler=GRID, retry={"other": 1}
    )
    controller.run()
    assert sorted(j.config["gamma"] for j in executor.submitted) == [0.1, 0.2, 0.2, 0.3]
    assert sorted(states(study)) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert "grid points that failed: 1;" in events[-1].event
    assert {event.target for event in events} == {3}
    # A new run is a new chance, as for a point whose controller was killed too often.
    again, study, _ = controller_of(tmp_path, FakeExecutor(), LINE, trials=3, sampler=GRID)
    again.run()
    assert states(study).count("COMPLETE") == 3
    assert study.get_trials()[-1].params == {"gamma": 0.2}


def test_a_point_whose_last_controller_was_killed_runs_in_the_next_run(tmp_path: Path) -> None:
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), LINE, trials=3, sampler=GRID)
    study.enqueue_trial({"gamma": 0.2})
    trial = study.ask(LINE.distributions)
    key = params_key({"gamma": 0.2})
    attrs = {CONTROLLER: "dead", ENQUEUED: key, POINT: key, DIRECTORY: "trials/0000"}
    # Its retries are used up.
    for name, value in {**attrs, USED: {"lost_worker": 1}}.items():
        trial.set_user_attr(name, value)
    controller.run()
    assert states(study).count("COMPLETE") == 3
    assert study.get_trials()[0].state == optuna.trial.TrialState.FAIL


def test_an_enqueued_point_of_a_grid_is_not_trained_twice(tmp_path: Path) -> None:
    executor = FakeExecutor()
    controller, study, _ = controller_of(
        tmp_path, executor, LINE, trials=3, sampler=GRID, enqueue=[{"gamma": 0.2}]
    )
    controller.run()
    assert executor.submitted[0].config["gamma"] == 0.2
    assert sorted(j.config["gamma"] for j in executor.submitted) == GAMMAS
    assert states(study) == ["COMPLETE"] * 3


def test_a_point_of_which_a_part_is_enqueued_is_filled(tmp_path: Path) -> None:
    executor = FakeExecutor()
    controller, study, _ = controller_of(
        tmp_path, executor, PLANE, trials=50, sampler=GRID, enqueue=[{"gamma": 0.2}]
    )
    controller.run()
    assert executor.submitted[0].config["gamma"] == 0.2
    trained = {(j.config["gamma"], j.config["epochs"]) for j in executor.submitted}
    assert len(trained) == len(executor.submitted) == 6
    # The filled point was in the grid as well: its second trial is a copy.
    assert sum("duplicate_of" in t.user_attrs for t in study.get_trials()) == 1


def test_two_controllers_share_a_grid(tmp_path: Path) -> None:
    """Each starts a trial before the other has told one: Optuna's sampler would repeat points."""
    wide = Space((Dimension("gamma", optuna.distributions.IntDistribution(0, 11)),))
    ran: list[int] = []

    def second_outcome(job):
        ran.append(job.config["gamma"])
        return 0.5

    second, _, _ = controller_of(
        tmp_path, FakeExecutor(second_outcome), wide, trials=12, sampler=GRID
    )
    begun = False

    def outcome(job):
        nonlocal begun
        ran.append(job.config["gamma"])
        if not begun:
            begun = True
            # The other runs while two points of ours are open, and leaves those alone.
            second.config = second.config.model_copy(update={"timeout": 0.2})
            second.run()
        return 0.5

    first, study, _ = controller_of(tmp_path, FakeExecutor(outcome), wide, trials=12, sampler=GRID)
    first.run()
    assert sorted(ran) == list(range(12))
    assert states(study).count("COMPLETE") == 12
    assert not any("duplicate_of" in t.user_attrs for t in study.get_trials())


def test_a_grid_over_an_interval_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="gamma is an interval"):
        listed_points(_sweep(), SPACE)


def test_what_the_grid_holds_is_what_a_trial_gets(tmp_path: Path) -> None:
    steps = Space((Dimension("gamma", optuna.distributions.FloatDistribution(0, 0.4, step=0.1)),))
    executor = FakeExecutor()
    controller, _, _ = controller_of(tmp_path, executor, steps, trials=9, sampler=GRID)
    controller.run()
    found = sorted(TrialConfig.model_validate(j.config).gamma for j in executor.submitted)
    assert found == [0.0, 0.1, 0.2, 0.3, 0.4]
