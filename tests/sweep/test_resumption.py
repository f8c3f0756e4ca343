"""A point that runs again goes on from the newest checkpoint that any attempt has left."""

from __future__ import annotations

from pathlib import Path

import cluster_trials
import pytest
from cluster_jobs import job_of
from sweep_doubles import FakeExecutor, controller_of, states

from rmexp.errors import UserError
from rmexp.sweep import cluster_job, mailbox
from rmexp.sweep.claims import Claims
from rmexp.sweep.cluster_job import ClusterJob
from rmexp.sweep.job import TrialJob
from rmexp.sweep.ledger import Ledger
from rmexp.trial.record import TrialRecord


def _leave_checkpoint(directory: Path) -> None:
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "checkpoints" / "last.ckpt").write_text("weights")


class Loses(FakeExecutor):
    """The first trial is lost; it has left a checkpoint where ``checkpoint`` says so."""

    def __init__(self, checkpoint: bool = True) -> None:
        super().__init__(self.lost, slots=1)
        self.checkpoint = checkpoint

    def lost(self, job: TrialJob):
        if job.number:
            return 0.5
        if self.checkpoint:
            _leave_checkpoint(job.directory)
        return "worker lost: killed by SIGKILL"


def test_a_retry_goes_on_from_the_lost_trials_checkpoint_in_its_own_folder(tmp_path: Path) -> None:
    executor = Loses()
    controller, _, events = controller_of(tmp_path, executor, trials=1)
    controller.run()
    first, second = executor.submitted
    assert first.resume_from is None
    assert second.resume_from == first.directory != second.directory
    assert any("its point runs again" in e.event for e in events)


def test_a_retry_of_a_trial_without_a_checkpoint_begins(tmp_path: Path) -> None:
    executor = Loses(checkpoint=False)
    controller, _, _ = controller_of(tmp_path, executor, trials=1)
    controller.run()
    assert executor.submitted[1].resume_from is None


def _interrupted_with_a_checkpoint(tmp_path: Path) -> None:
    class Stopped(FakeExecutor):
        def wait(self, on_report, timeout: float):
            _leave_checkpoint(self.jobs[0].directory)
            raise KeyboardInterrupt

    controller, _, _ = controller_of(tmp_path, Stopped(slots=1), trials=1)
    with pytest.raises(KeyboardInterrupt):
        controller.run()


def _stopped_in_the_queue(tmp_path: Path) -> None:
    controller, _, _ = controller_of(tmp_path, FakeExecutor(crash_after=0, slots=1), trials=1)
    with pytest.raises(KeyboardInterrupt):
        controller.run()


def _refused_by_the_scheduler(tmp_path: Path) -> None:
    class Refuses(FakeExecutor):
        def submit(self, job: TrialJob) -> None:
            raise UserError("the scheduler took no job")

    controller, _, _ = controller_of(tmp_path, Refuses(slots=1), trials=1)
    with pytest.raises(UserError, match="took no job"):
        controller.run()


def _killed_after_its_claim(tmp_path: Path) -> None:
    _, study, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    ledger = Ledger(study)
    ledger.refresh()
    trial = Claims(study, ledger, "killed", 1).start(ledger.owed({}))
    assert trial is not None


@pytest.mark.parametrize(
    "end", [_stopped_in_the_queue, _refused_by_the_scheduler, _killed_after_its_claim]
)
def test_an_attempt_that_never_began_does_not_hide_the_checkpoint(tmp_path: Path, end) -> None:
    _interrupted_with_a_checkpoint(tmp_path)
    end(tmp_path)
    executor = FakeExecutor(slots=1)
    controller, study, _ = controller_of(tmp_path, executor, trials=1)
    controller.run()
    assert states(study) == ["FAIL", "FAIL", "COMPLETE"]
    (job,) = executor.submitted
    assert job.resume_from == controller.folder.trial(0)


@pytest.mark.parametrize("copied", [True, False])
def test_a_job_that_was_preempted_before_its_copy_finished_copies_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    # In this process: neither the log nor the watch of a node.
    monkeypatch.setattr(cluster_job, "_log_to", lambda path: None)
    monkeypatch.setattr(cluster_job, "_watch", lambda job: None)
    earlier, directory = tmp_path / "earlier", tmp_path / "trial"
    _leave_checkpoint(earlier)
    job = job_of(directory, resume_from=earlier)
    mailbox.begin(directory)
    if copied:
        _leave_checkpoint(directory)
    ClusterJob(job, patience=0, run=cluster_trials.cheap_trial)()
    expected = directory if copied else earlier
    assert TrialRecord.read(directory).report["resumed from"] == str(expected)
