from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from sweep_doubles import SPACE, FakeExecutor, controller_of, states

from rmexp.errors import UserError
from rmexp.sweep.job import Ended, ReportHandler, TrialJob
from rmexp.sweep.ledger import state_of, was_interrupted
from rmexp.sweep.samplers import make_sampler
from rmexp.sweep.schema import PrunerConfig, SamplerConfig
from rmexp.sweep.space import Dimension, Space
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig


class SlowFirst(FakeExecutor):
    """The first job outlasts all others; nobody may wait for it while a trial is still wanted."""

    def wait(self, on_report: ReportHandler, timeout: float) -> list[Ended]:
        if len(self.submitted) < 6:
            assert len(self.jobs) == self.slots, "a slot is idle while the first job runs"
        self.jobs.rotate(-1)
        return super().wait(on_report, timeout)


def test_a_sweep_runs_to_its_target_with_all_slots_busy(tmp_path: Path) -> None:
    """Trap 21: a batch waits for its slowest trial."""
    executor = SlowFirst()
    controller, study, events = controller_of(tmp_path, executor)
    controller.run()
    assert states(study) == ["COMPLETE"] * 6
    assert executor.closed
    assert events[-1].complete == 6
    assert events[-1].best == study.best_value


def test_the_same_command_after_an_interruption_goes_on_to_the_target(tmp_path: Path) -> None:
    first = FakeExecutor(crash_after=3)
    controller, study, _ = controller_of(tmp_path, first)
    with pytest.raises(KeyboardInterrupt):
        controller.run()
    assert first.closed
    done = states(study).count("COMPLETE")
    lost = [t.params for t in study.get_trials() if was_interrupted(t)]
    assert "RUNNING" not in states(study)
    assert done < 6
    assert lost
    second = FakeExecutor()
    controller, study, _ = controller_of(tmp_path, second)
    controller.run()
    found = states(study)
    assert found.count("COMPLETE") == 6
    assert "RUNNING" not in found
    assert len(second.submitted) == 6 - done
    # The interrupted points are run again, in directories of their own.
    again = [job.config["gamma"] for job in second.submitted]
    assert all(params["gamma"] in again for params in lost)
    assert not {j.directory for j in first.submitted} & {j.directory for j in second.submitted}


def test_a_point_survives_any_number_of_interruptions_and_none_counts_as_a_failure(
    tmp_path: Path,
) -> None:
    for _ in range(4):
        controller, study, _ = controller_of(
            tmp_path, FakeExecutor(crash_after=0), trials=1, retry={}, max_failures=0
        )
        with pytest.raises(KeyboardInterrupt):
            controller.run()
    points = {t.params["gamma"] for t in study.get_trials()}
    assert len(points) == 1
    controller, study, events = controller_of(tmp_path, FakeExecutor(), trials=1)
    controller.run()
    assert [state_of(t) for t in study.get_trials()] == ["interrupted"] * 4 + ["complete"]
    assert study.best_trial.params["gamma"] in points
    assert events[-1].failed == 0


def test_a_trial_that_ended_just_before_the_controller_died_counts(tmp_path: Path) -> None:
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    trial = study.ask(SPACE.distributions)
    directory = controller.folder.trial(trial.number)
    directory.mkdir(parents=True)
    trial.set_user_attr("directory", f"trials/{trial.number:04d}")
    trial.set_user_attr("controller", "dead")
    config = TrialConfig(cache_dir="c", gamma=0.5)
    identity = TrialIdentity("s", 0)
    TrialRecord("complete", "", 0.7, config.to_plain(), identity, objectives=[0.7]).write(directory)
    executor = FakeExecutor()
    controller, study, _ = controller_of(tmp_path, executor, trials=1)
    controller.run()
    assert not executor.submitted
    assert study.best_value == 0.7


def test_a_resumed_study_does_not_propose_its_old_points_again(tmp_path: Path) -> None:
    for trials in (4, 8):
        controller, study, _ = controller_of(
            tmp_path, FakeExecutor(), trials=trials, sampler=SamplerConfig(kind="random")
        )
        controller.run()
    values = [t.params["gamma"] for t in study.get_trials()]
    assert len(set(values)) == 8


def test_an_equal_point_is_not_trained_twice(tmp_path: Path) -> None:
    choices = optuna.distributions.CategoricalDistribution([0.25, 0.5])
    space = Space((Dimension("gamma", choices),))
    executor = FakeExecutor()
    controller, study, _ = controller_of(tmp_path, executor, space, trials=8)
    controller.run()
    assert states(study) == ["COMPLETE"] * 8
    trained = [job.config["gamma"] for job in executor.submitted]
    assert sorted(trained) == [0.25, 0.5]
    copies = [t for t in study.get_trials() if "duplicate_of" in t.user_attrs]
    assert len(copies) == 8 - len(trained)
    assert all(t.value == t.params["gamma"] for t in study.get_trials())


def test_pruned_is_pruned_and_counts_to_the_target(tmp_path: Path) -> None:
    # Each trial is worse than the one before: the median pruner stops the later ones.
    def outcome(job: TrialJob) -> list[float]:
        return [1.0 / (job.number + 1)] * 3

    controller, study, _ = controller_of(
        tmp_path,
        FakeExecutor(outcome),
        pruner=PrunerConfig(kind="median", startup_trials=1),
    )
    controller.run()
    found = states(study)
    assert found.count("PRUNED") > 0
    assert found.count("PRUNED") + found.count("COMPLETE") == 6
    assert "FAIL" not in found


def test_a_failure_is_told_and_does_not_count(tmp_path: Path) -> None:
    def outcome(job: TrialJob):
        return ValueError("bad luck") if job.number == 1 else 0.5

    controller, study, events = controller_of(tmp_path, FakeExecutor(outcome), trials=3)
    controller.run()
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.get_trials()[1].user_attrs["reason"] == "bad luck"
    assert any("trial 1 failed: bad luck" in e.event for e in events)


def test_a_lost_worker_fails_its_trial_alone(tmp_path: Path) -> None:
    def outcome(job: TrialJob):
        return "worker lost: killed by SIGKILL" if job.number == 0 else 0.5

    controller, study, _ = controller_of(tmp_path, FakeExecutor(outcome), trials=2)
    controller.run()
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "SIGKILL" in study.get_trials()[0].user_attrs["reason"]


def test_a_job_may_run_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = FakeExecutor()
    controller, study, _ = controller_of(Path("outputs"), executor, trials=1)
    controller.run()
    assert executor.submitted[0].directory == tmp_path / "outputs/studies/s/trials/0000"
    assert study.get_trials()[0].user_attrs["directory"] == "trials/0000"


def test_too_many_failures_stop_the_sweep(tmp_path: Path) -> None:
    executor = FakeExecutor(lambda job: ValueError("always"))
    controller, _, _ = controller_of(tmp_path, executor, max_failures=2)
    with pytest.raises(UserError, match="3 trials failed in this run, the last with: always"):
        controller.run()
    assert executor.closed


@pytest.mark.parametrize("keep", ["best", "last", "all"])
def test_only_the_wanted_models_stay(tmp_path: Path, keep: str) -> None:
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), keep=keep, trials=4)
    controller.run()
    kept = {p.parent.name for p in (tmp_path / "studies/s/trials").glob(f"*/{MODEL}")}
    expected = {
        "best": {f"{study.best_trial.number:04d}"},
        "last": {"0003"},
        "all": {"0000", "0001", "0002", "0003"},
    }
    assert kept == expected[keep]
    assert len(list((tmp_path / "studies/s/trials").glob("*/record.json"))) == 4


def test_with_several_objectives_the_models_of_the_front_stay(tmp_path: Path) -> None:
    # 0 is behind 1 in both; 1 and 3 trade; 2 equals 1 in one and is behind in the other.
    values = [[0.1, 0.1], [0.9, 0.2], [0.9, 0.1], [0.3, 0.8]]

    def outcome(job: TrialJob) -> TrialRecord:
        found = values[job.number]
        return TrialRecord("complete", "", None, job.config, job.identity, objectives=found)

    controller, study, _ = controller_of(
        tmp_path,
        FakeExecutor(outcome),
        direction=["maximize", "maximize"],
        trials=4,
    )
    controller.run()
    kept = {p.parent.name for p in (tmp_path / "studies/s/trials").glob(f"*/{MODEL}")}
    assert kept == {f"{trial.number:04d}" for trial in study.best_trials} == {"0001", "0003"}


def test_one_controller_at_a_time(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "s")
    folder.make()
    second = folder.controlled()
    with folder.controlled(), pytest.raises(UserError, match="run by another process"):
        second.__enter__()
    with folder.controlled():
        pass


def test_the_direction_of_a_study_cannot_change(tmp_path: Path) -> None:
    controller_of(tmp_path, FakeExecutor())
    with pytest.raises(UserError, match=r"sweep\.direction"):
        controller_of(tmp_path, FakeExecutor(), direction="minimize")


@pytest.mark.parametrize("kind", ["tpe", "gp", "cmaes", "qmc"])
def test_a_sampler_goes_on_where_it_begins_to_learn(kind: str) -> None:
    """Some need packages that Optuna asks for only once they model two ranges or more."""
    plane = {name: FloatDistribution(0.0, 1.0) for name in ("x", "y")}
    config = SamplerConfig(kind=kind, **({} if kind == "qmc" else {"startup_trials": 2}))
    study = optuna.create_study(sampler=make_sampler(config, SPACE, 0))
    for _ in range(6):
        trial = study.ask(plane)
        study.tell(trial, trial.params["x"] - trial.params["y"])
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)


@pytest.mark.parametrize("kind", ["tpe", "random", "cmaes", "qmc", "nsga2", "nsga3"])
def test_every_sampler_proposes_points(kind: str) -> None:
    study = optuna.create_study(sampler=make_sampler(SamplerConfig(kind=kind), SPACE, 0))
    for _ in range(3):
        trial = study.ask(SPACE.distributions)
        study.tell(trial, trial.params["gamma"])
    assert len({t.params["gamma"] for t in study.trials}) == 3
