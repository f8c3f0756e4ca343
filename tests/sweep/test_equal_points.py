"""A point is trained once, whoever comes to it, also while its first trial still runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from sweep_doubles import FakeExecutor, controller_of, states

from rmexp.sweep.job import TrialJob
from rmexp.sweep.ledger import POINT, Ledger, params_key
from rmexp.sweep.schema import PrunerConfig, SamplerConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.trial.record import TrialRecord

FEW = Space((Dimension("gamma", optuna.distributions.CategoricalDistribution([0.25, 0.5])),))
ONE = Space((Dimension("gamma", optuna.distributions.CategoricalDistribution([0.25])),))


def test_equal_points_at_the_same_time_are_trained_once(tmp_path: Path) -> None:
    executor = FakeExecutor(slots=4)
    controller, study, _ = controller_of(
        tmp_path, executor, FEW, trials=8, sampler=SamplerConfig(kind="random")
    )
    controller.run()
    assert states(study) == ["COMPLETE"] * 8
    assert sorted(job.config["gamma"] for job in executor.submitted) == [0.25, 0.5]
    assert all(t.value == t.params["gamma"] for t in study.get_trials())
    assert sum("duplicate_of" in t.user_attrs for t in study.get_trials()) == 6


def test_two_controllers_train_no_point_twice(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> float:
        time.sleep(0.05)
        return job.config["gamma"]

    five = optuna.distributions.CategoricalDistribution([0.1, 0.2, 0.3, 0.4, 0.5])
    space = Space((Dimension("gamma", five),))
    executors = [FakeExecutor(outcome, slots=2) for _ in range(2)]
    runs = [
        controller_of(
            tmp_path, executor, space, trials=20, sampler=SamplerConfig(kind="random", seed=i)
        )
        for i, executor in enumerate(executors)
    ]
    threads = [threading.Thread(target=controller.run) for controller, _, _ in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    submitted = [job.config["gamma"] for executor in executors for job in executor.submitted]
    assert len(submitted) == len(set(submitted))
    study = runs[0][1]
    counted = [t for t in study.get_trials() if not t.user_attrs.get("withdrawn")]
    assert [t.state.name for t in counted] == ["COMPLETE"] * 20
    assert all(t.value == t.params["gamma"] for t in counted)


def test_where_the_first_fails_the_second_is_trained(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> Any:
        return ValueError("bad luck") if job.number == 0 else 0.7

    executor = FakeExecutor(outcome, slots=2)
    controller, study, _ = controller_of(tmp_path, executor, ONE, trials=2)
    controller.run()
    assert [job.number for job in executor.submitted] == [0, 1]
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_pruned_point_is_pruned_again_without_training(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> TrialRecord:
        return TrialRecord("pruned", "pruned", 0.1, job.config, job.identity, objectives=[0.1])

    executor = FakeExecutor(outcome)
    controller, study, _ = controller_of(
        tmp_path, executor, ONE, trials=3, pruner=PrunerConfig(kind="median")
    )
    controller.run()
    assert states(study) == ["PRUNED"] * 3
    assert len(executor.submitted) == 1


def test_a_sampler_that_insists_on_a_point_in_training_leaves_places_free(tmp_path: Path) -> None:
    class Slow(FakeExecutor):
        def wait(self, on_report: Any, timeout: float) -> Any:
            most.append(len(states(study)))
            return super().wait(on_report, timeout)

    most: list[int] = []
    controller, study, _ = controller_of(tmp_path, Slow(slots=2), ONE, trials=20)
    controller.run()
    assert most[0] == 1 + 2
    assert states(study) == ["COMPLETE"] * 20


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([None], "draws"),
        ([0.25], "trains"),
        ([0.5], "no"),
        ([0.25, None], "draws"),
    ],
)
def test_of_equal_points_the_lowest_number_trains(points: list, expected: str) -> None:
    study = optuna.create_study()
    for point in points:
        trial = study.ask()
        if point is not None:
            trial.set_user_attr(POINT, params_key({"gamma": point}))
    ledger = Ledger(study)
    ledger.refresh()
    key = params_key({"gamma": 0.25})
    assert ledger.must_wait(len(points), key) == expected
    # Whoever came later need not be looked at.
    assert ledger.must_wait(0, key) == "no"


def test_at_the_time_limit_what_waits_is_taken_back(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> ValueError:
        controller._started -= 1000
        return ValueError("bad luck")

    executor = FakeExecutor(outcome, slots=2)
    controller, study, _ = controller_of(tmp_path, executor, ONE, trials=9, timeout=500)
    controller.run()
    assert len(executor.submitted) == 1
    first, *others = study.get_trials()
    assert first.user_attrs["reason"] == "bad luck"
    assert others
    assert all(t.user_attrs["withdrawn"] and t.state.name == "FAIL" for t in others)
