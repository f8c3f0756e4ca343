"""A trial that died without a word gets its end at the tracker from the controller."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_doubles import FakeExecutor, controller_of
from wandb_files import run_of

from rmexp.sweep.job import TrialJob
from rmexp.sweep.lost_runs import LostRuns
from rmexp.trial.lost import close_lost_run
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig

IDENTITY = TrialIdentity("s", 3, attempt=1)


def config(kind: str = "wandb") -> TrialConfig:
    return TrialConfig(cache_dir="c", gamma=0.25, tracker={"kind": kind, "mode": "offline"})


def test_the_controller_tells_of_lost_trials_and_of_no_others(tmp_path: Path) -> None:
    outcomes = {0: "worker lost: killed by SIGKILL", 1: ValueError("bad luck")}
    executor = FakeExecutor(lambda job: outcomes.get(job.number, 0.5))
    controller, _, _ = controller_of(tmp_path, executor, trials=3)
    told: list[tuple[TrialJob, str]] = []
    controller.on_lost = lambda job, reason: told.append((job, reason))
    controller.run()
    assert [(job.number, reason) for job, reason in told] == [(0, outcomes[0])]
    assert told[0][0] == executor.submitted[0]


class DyingExecutor(FakeExecutor):
    """Takes its controller along after two trials have started."""

    def wait(self, on_report, timeout):
        if len(self.submitted) == 2:
            raise MemoryError
        return super().wait(on_report, timeout)


def test_the_next_controller_tells_of_a_dead_ones_trials(tmp_path: Path) -> None:
    first = DyingExecutor()
    controller, _, _ = controller_of(tmp_path, first, trials=3)
    with pytest.raises(MemoryError):
        controller.run()
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), trials=3)
    told: list[tuple[TrialJob, str]] = []
    controller.on_lost = lambda job, reason: told.append((job, reason))
    controller.run()
    left = {job.number: job for job in first.jobs}
    assert {job.number for job, _ in told} == set(left) == {0, 1}
    for job, reason in told:
        assert job.identity == left[job.number].identity
        assert job.config["gamma"] == study.get_trials()[job.number].params["gamma"]
        assert reason == "interrupted: its controller ended"


def test_a_stopped_sweep_tells_of_its_own_trials(tmp_path: Path) -> None:
    first = FakeExecutor(crash_after=2)
    controller, _, _ = controller_of(tmp_path, first, trials=3)
    told: list[tuple[int, str]] = []
    controller.on_lost = lambda job, reason: told.append((job.number, reason))
    with pytest.raises(KeyboardInterrupt):
        controller.run()
    assert told == [(job.number, "the sweep was stopped") for job in first.jobs]


def test_a_lost_run_ends_as_failed_under_its_own_id(tmp_path: Path) -> None:
    assert close_lost_run(config(), IDENTITY, tmp_path, "worker lost: killed by SIGKILL")
    run = run_of(tmp_path)
    assert run["id"] == IDENTITY.run_id
    assert run["group"] == "s"
    assert run["config"]["gamma"] == 0.25
    assert run["summary"]["state"] == "failed"
    assert run["summary"]["reason"] == "worker lost: killed by SIGKILL"
    assert "state:failed" in run["tags"]
    assert run["exit_code"] == 1


def test_a_trial_that_has_a_record_has_told_its_end_itself(tmp_path: Path) -> None:
    TrialRecord("complete", "", 0.5, config().to_plain(), IDENTITY).write(tmp_path)
    assert not close_lost_run(config(), IDENTITY, tmp_path, "lost")
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
def test_it_is_told_in_a_process_of_its_own(tmp_path: Path) -> None:
    tell = LostRuns()
    tell(TrialJob(IDENTITY, config().to_plain(), tmp_path / "1"), "lost")
    tell(TrialJob(IDENTITY, config("none").to_plain(), tmp_path / "2"), "lost")
    tell.finish()
    assert run_of(tmp_path / "1")["summary"]["reason"] == "lost"
    assert not (tmp_path / "2").exists()
