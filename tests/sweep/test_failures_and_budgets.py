from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from sweep_doubles import GUARD, FakeExecutor, controller_of, guarded_trial, states

from rmexp.errors import UserError
from rmexp.reward.losses import NonFiniteError
from rmexp.sweep.console import console, failures_table
from rmexp.sweep.failures import failure_rows
from rmexp.sweep.job import Ended, TrialJob
from rmexp.sweep.samplers import check_sampler, make_sampler
from rmexp.sweep.schema import SamplerConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import best_trial, front
from rmexp.trial.failure import failure_kind
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrialConfig


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (NonFiniteError("the loss is NaN or infinite at pairs a, b"), "nan"),
        (UserError("objective 'a', position 1: metric 'a' is NaN"), "nan"),
        (UserError("data: no row"), "user_error"),
        (TimeoutError("no answer"), "time_out"),
        (ValueError("else"), "other"),
    ],
)
def test_failures_are_sorted_by_what_can_be_done(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind


def _failing(kind: str, times: int):
    """Fails the first trials with one kind, then completes."""
    failed: list[int] = []

    def outcome(job: TrialJob):
        if len(failed) < times:
            failed.append(job.number)
            return TrialRecord(
                "failed", "no luck", None, job.config, job.identity, traceback="end", failure=kind
            )
        return 0.5

    return outcome


def test_each_kind_has_its_own_retries(tmp_path: Path) -> None:
    for kind in ("nan", "out_of_memory"):
        executor = FakeExecutor(_failing(kind, 2), slots=1)
        controller, study, _ = controller_of(
            tmp_path / kind, executor, trials=2, retry={"nan": 2, "lost_worker": 1}
        )
        controller.run()
        failed = [t for t in study.get_trials() if t.state.name == "FAIL"]
        assert len(failed) == 2
        assert {t.user_attrs["failure"] for t in failed} == {kind}
        assert all(t.user_attrs["traceback"] == "end" for t in failed)
        gammas = [job.config["gamma"] for job in executor.submitted]
        assert len(gammas) == 4
        assert len(set(gammas)) == (2 if kind == "nan" else 4)
        assert [j.identity.attempt for j in executor.submitted] == (
            [0, 1, 2, 0] if kind == "nan" else [0, 0, 0, 0]
        )


def test_what_is_run_again_does_not_use_up_the_failure_budget(tmp_path: Path) -> None:
    def outcome(job: TrialJob):
        return "worker lost" if job.identity.attempt == 0 else 0.5

    controller, study, _ = controller_of(tmp_path, FakeExecutor(outcome), trials=4, max_failures=0)
    controller.run()
    assert sorted(states(study)) == ["COMPLETE"] * 4 + ["FAIL"] * 4


def test_the_table_of_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def outcome(job: TrialJob):
        return "worker lost: [x]" if job.number == 0 else 0.5

    controller, study, _ = controller_of(tmp_path, FakeExecutor(outcome), trials=2)
    controller.run()
    (row,) = failure_rows(study.get_trials())
    assert (row.kind, row.count, row.retried) == ("lost_worker", 1, 1)
    console().print(failures_table([row]))
    assert "worker lost: [x]" in capsys.readouterr().out


def test_a_trial_over_its_time_is_stopped_and_sorted(tmp_path: Path) -> None:
    class Slow(FakeExecutor):
        def wait(self, on_report, timeout):
            if not self.cancelled:
                time.sleep(0.02)
                return []
            return self.lose(self.cancelled.pop())

    executor = Slow(slots=1)
    controller, study, _ = controller_of(
        tmp_path, executor, trials=1, trial_timeout=0.05, max_failures=0
    )
    with pytest.raises(UserError, match=r"trial_timeout=0.05"):
        controller.run()
    (trial,) = study.get_trials()
    assert trial.user_attrs["failure"] == "time_out"


def test_no_trial_starts_after_the_wall_clock_budget(tmp_path: Path) -> None:
    def outcome(job: TrialJob) -> float:
        if len(executor.submitted) == 3:
            controller._started -= 3600  # as if an hour had passed
        return 0.5

    executor = FakeExecutor(outcome, slots=1)
    controller, study, _ = controller_of(tmp_path, executor, trials=100, timeout=1800)
    controller.run()
    assert len(executor.submitted) == 3
    assert "RUNNING" not in states(study)


def test_a_nan_kills_its_trial_not_the_sweep(tmp_path: Path) -> None:
    """Trap 19."""
    controller, study, _ = controller_of(tmp_path, FakeExecutor(_failing("nan", 1)), trials=3)
    controller.run()
    assert states(study).count("COMPLETE") == 3


def test_guards_rule_the_best_trial_and_reach_the_sampler(tmp_path: Path) -> None:
    executor = FakeExecutor(guarded_trial)
    controller, study, _ = controller_of(tmp_path, executor, trials=12, guards=[GUARD])
    controller.run()
    values = [t.value for t in study.get_trials()]
    assert max(values) > 0.5
    assert best_trial(study).value == max(v for v in values if v <= 0.5)
    seen = study.get_trials()[0].system_attrs["constraints"]
    assert list(seen) == study.get_trials()[0].user_attrs["violations"]


def test_a_sampler_that_takes_one_objective_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="cmaes takes one objective"):
        check_sampler(SamplerConfig(kind="cmaes"), objectives=2)


def test_several_objectives_and_their_front(tmp_path: Path) -> None:
    def outcome(job: TrialJob):
        gamma = job.config["gamma"]
        values = [gamma, gamma if gamma < 0.5 else 1.0]
        return TrialRecord("complete", "", gamma, job.config, job.identity, objectives=values)

    directions = ["maximize", "minimize"]
    controller, study, events = controller_of(
        tmp_path, FakeExecutor(outcome), trials=10, direction=directions
    )
    controller.run()
    assert len(study.get_trials()) == 10
    values = [t.values for t in study.get_trials()]
    expected = [
        v for v in values if not any(w[0] >= v[0] and w[1] <= v[1] and w != v for w in values)
    ]
    assert [t.values for t in front(study)] == expected
    assert events[-1].best is None
    with pytest.raises(UserError, match="several objectives"):
        best_trial(study)


def test_points_of_the_user_are_run_first(tmp_path: Path) -> None:
    executor = FakeExecutor()
    controller, _, _ = controller_of(
        tmp_path, executor, trials=3, enqueue=[{"gamma": 0.125}, {"gamma": 0.25}]
    )
    controller.run()
    assert [j.config["gamma"] for j in executor.submitted][:2] == [0.125, 0.25]


def test_two_controllers_do_not_propose_the_same_points() -> None:
    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    space = Space((Dimension("gamma", distribution),))
    values = []
    for name in ("a", "b"):
        sampler = make_sampler(SamplerConfig(kind="random"), space, 0, controller=name)
        values.append(space.suggest(optuna.create_study(sampler=sampler).ask())["gamma"])
    assert values[0] != values[1]


def test_a_worker_that_is_given_up_writes_into_its_own_folder_only(tmp_path: Path) -> None:
    """Trap 33: the first controller sleeps through its lease and wakes after its successor."""
    first, study, events = controller_of(tmp_path, FakeExecutor(slots=1), trials=1, lease=0.01)
    config = TrialConfig(cache_dir="c", gamma=0.5)

    def outcome(job: TrialJob):
        # While it sleeps, another takes its trial up and finishes the point.
        second, _, _ = controller_of(tmp_path, successor, trials=1, lease=0.01)
        frozen = study.get_trials()[0]
        second_study = second.study
        second_study._storage.set_trial_user_attr(frozen._trial_id, "controller", "asleep")
        second.run()
        return 0.9

    successor = FakeExecutor(lambda job: 0.1)
    first.executor.outcome = outcome
    first.run()
    assert [(t.state.name, t.value) for t in study.get_trials()] == [
        ("FAIL", None),
        ("COMPLETE", 0.1),
    ]
    assert any("its result does not count" in e.event for e in events)
    old, new = (TrialRecord.read(tmp_path / f"studies/s/trials/000{i}") for i in (0, 1))
    assert (old.objective, new.objective) == (0.9, 0.1)
    assert config.gamma == 0.5


def test_a_point_that_cannot_be_composed_fails_alone(tmp_path: Path) -> None:
    executor = FakeExecutor()
    controller, study, _ = controller_of(tmp_path, executor, trials=4)
    compose = controller.config_for
    refused: list[float] = []

    def config_for(values: dict) -> TrialConfig:
        if not refused:
            refused.append(values["gamma"])
            raise UserError("gamma: not on this machine")
        return compose(values)

    controller.config_for = config_for
    controller.run()
    assert sorted(states(study)) == ["COMPLETE"] * 4 + ["FAIL"]
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert failed.user_attrs["failure"] == "user_error"
    assert failed.user_attrs["reason"] == "gamma: not on this machine"
    assert refused[0] not in [job.config["gamma"] for job in executor.submitted]


def test_each_kind_of_failure_has_retries_of_its_own(tmp_path: Path) -> None:
    fates = iter(["worker lost: killed", FloatingPointError("loss is nan"), 0.5])
    kinds = {"lost_worker": 1, "other": 1}
    executor = FakeExecutor(lambda job: next(fates), slots=1)
    controller, study, _ = controller_of(tmp_path, executor, trials=1, retry=kinds)
    controller.run()
    assert states(study) == ["FAIL", "FAIL", "COMPLETE"]
    assert len({job.config["gamma"] for job in executor.submitted}) == 1


def test_a_retry_of_one_kind_is_not_endless(tmp_path: Path) -> None:
    fates = iter(["worker lost: killed", "worker lost: killed", 0.5])
    executor = FakeExecutor(lambda job: next(fates), slots=1)
    controller, study, _ = controller_of(tmp_path, executor, trials=1, retry={"lost_worker": 1})
    controller.run()
    first, second, third = [job.config["gamma"] for job in executor.submitted]
    assert first == second != third
    assert states(study) == ["FAIL", "FAIL", "COMPLETE"]


def test_points_enqueued_for_a_later_run_are_run_then(tmp_path: Path) -> None:
    controller, _, _ = controller_of(tmp_path, FakeExecutor(), trials=1, enqueue=[{"gamma": 0.125}])
    controller.run()
    executor = FakeExecutor()
    enqueue = [{"gamma": 0.25}, {"gamma": 0.125}]
    controller, _, _ = controller_of(tmp_path, executor, trials=2, enqueue=enqueue)
    controller.run()
    assert [job.config["gamma"] for job in executor.submitted] == [0.25]


def test_a_trials_time_counts_from_where_it_runs(tmp_path: Path) -> None:
    """On a cluster a job may wait for hours before it begins."""

    class Queued(FakeExecutor):
        begun = False
        looks = 0

        def has_begun(self, number: int) -> bool:
            return self.begun

        def wait(self, on_report, timeout: float) -> list[Ended]:
            self.looks += 1
            time.sleep(0.02)
            if self.cancelled:
                return self.lose(self.cancelled[0])
            if self.looks == 5:
                assert not self.cancelled  # queued for longer than the limit
                self.begun = True
            return []

    executor = Queued(slots=1)
    controller, study, _ = controller_of(
        tmp_path, executor, trials=1, trial_timeout=0.05, max_failures=0
    )
    with pytest.raises(UserError, match=r"trial_timeout=0\.05"):
        controller.run()
    assert study.get_trials()[0].user_attrs["failure"] == "time_out"
    assert executor.looks > 5


def test_a_preempted_trials_time_counts_from_where_it_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=lambda seconds: None)
    monkeypatch.setattr("rmexp.sweep.controller.time", clock)

    class Preempted(FakeExecutor):
        looks = 0

        def has_begun(self, number: int) -> bool:
            return not 2 <= self.looks <= 5  # queued again

        def wait(self, on_report, timeout: float) -> list[Ended]:
            self.looks += 1
            clock.now += 100 if not self.has_begun(0) else 1
            return super().wait(on_report, timeout) if self.looks >= 8 else []

    executor = Preempted(slots=1)
    controller, study, _ = controller_of(tmp_path, executor, trials=1, trial_timeout=50)
    controller.run()
    assert not executor.cancelled
    assert states(study) == ["COMPLETE"]


class Refusing(FakeExecutor):
    """A scheduler that takes some jobs and not others, by the number asked for so far."""

    def __init__(self, refuse: set[int], slots: int = 2) -> None:
        super().__init__(slots=slots)
        self.refuse, self.asked = refuse, 0

    def submit(self, job: TrialJob) -> None:
        self.asked += 1
        if self.asked in self.refuse:
            raise UserError("executor=submitit: the scheduler took no job: socket timed out")
        super().submit(job)


def test_a_job_that_is_not_taken_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmexp.sweep.controller._REFUSED_WAIT", 0.0)
    executor = Refusing({2})
    controller, study, _ = controller_of(tmp_path, executor, trials=3, max_failures=0)
    controller.run()
    finished = [t for t in study.get_trials() if t.state == TrialState.COMPLETE]
    assert len(finished) == 3
    (refused,) = study.get_trials(states=(TrialState.FAIL,))
    assert refused.user_attrs["failure"] == "interrupted"
    # Its point was run after all.
    assert refused.params["gamma"] in [t.params["gamma"] for t in finished]


def test_a_scheduler_that_takes_nothing_ends_the_sweep_in_one_line(tmp_path: Path) -> None:
    controller, study, _ = controller_of(tmp_path, Refusing({1}), trials=2)
    with pytest.raises(UserError, match="the scheduler took no job"):
        controller.run()
    assert study.get_trials()[0].user_attrs["withdrawn"]
    again, study, _ = controller_of(tmp_path, FakeExecutor(), trials=2)
    again.run()
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
