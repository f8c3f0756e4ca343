"""Trials as cluster jobs: submitit's local executor, and a false SLURM."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import cluster_trials
import false_slurm
import pytest
from cluster_jobs import GRID, is_alive, job_of, until
from sweep_doubles import FakeExecutor, controller_of, states

from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.sweep import mailbox
from rmexp.sweep.cluster import ClusterExecutor
from rmexp.sweep.cluster_job import ClusterJob
from rmexp.sweep.schema import PrunerConfig, SubmititExecutorConfig
from rmexp.sweep.study import load_study
from rmexp.sweep.submitit_cluster import SubmititCluster
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrainerConfig


def test_reports_and_verdicts_pass_as_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert mailbox.post_report(tmp_path / "a", 1, 0.5, patience=0) is False
    assert mailbox.open_reports(tmp_path / "a") == [(1, 0.5)]
    mailbox.post_verdict(tmp_path / "a", 1, prune=True)
    assert mailbox.open_reports(tmp_path / "a") == []
    # A verdict that came too late for its epoch holds at the next.
    assert mailbox.post_report(tmp_path / "a", 2, 0.4, patience=0) is True


def test_a_trial_that_was_given_up_reports_no_more(tmp_path: Path) -> None:
    mailbox.give_up(tmp_path)
    with pytest.raises(mailbox.GivenUp):
        mailbox.post_report(tmp_path, 1, 0.5, patience=9)


def test_a_given_up_or_finished_job_that_is_started_again_writes_nothing(tmp_path: Path) -> None:
    def run(*args: Any, **others: Any) -> None:
        raise AssertionError("ran")

    for name in ("given_up", "finished"):
        directory = tmp_path / name
        directory.mkdir()
        if name == "given_up":
            mailbox.give_up(directory)
        else:
            (directory / "record.json").write_text("{}")
        ClusterJob(job_of(directory), run=run)()
        assert not (directory / "log.txt").exists()


class FakeCluster:
    """Jobs that are over when the test says so."""

    slots = 2

    def __init__(self) -> None:
        self.started: list[ClusterJob] = []
        self.over_now: dict[int, str] = {}
        self.stopped: list[int] = []
        self.closed = False

    def start(self, job: ClusterJob) -> int:
        self.started.append(job)
        return job.job.number

    def over(self, handle: int) -> str | None:
        return self.over_now.get(handle)

    def stop(self, handle: int) -> None:
        self.stopped.append(handle)

    def close(self) -> None:
        self.closed = True


def test_a_job_without_a_record_is_lost_only_after_a_grace(tmp_path: Path) -> None:
    cluster = FakeCluster()
    executor = ClusterExecutor(cluster, threads=1, grace=0.3)
    for number in (0, 1):
        executor.submit(job_of(tmp_path / str(number), number))
    cluster.over_now = {0: "NODE_FAIL", 1: "COMPLETED"}
    assert executor.wait(lambda *report: False, 0) == []
    # The record of 1 appears late, as on a shared file system.
    (tmp_path / "1" / "record.json").write_text("{}")
    (first,) = executor.wait(lambda *report: False, 0)
    assert (first.job.number, first.lost) == (1, "")
    (second,) = executor.wait(lambda *report: False, 5)
    assert (second.job.number, second.lost) == (0, "job lost: NODE_FAIL")
    # Its scheduler may start it again, although its point runs elsewhere by then.
    assert mailbox.is_given_up(tmp_path / "0")


def test_a_cancelled_job_is_given_up_as_well(tmp_path: Path) -> None:
    cluster = FakeCluster()
    executor = ClusterExecutor(cluster, threads=1)
    executor.submit(job_of(tmp_path / "0"))
    executor.cancel(0)
    assert cluster.stopped == [0]
    assert mailbox.is_given_up(tmp_path / "0")
    executor.close()
    assert cluster.closed


def test_a_job_that_is_queued_again_does_not_run(tmp_path: Path) -> None:
    executor = ClusterExecutor(FakeCluster(), threads=1)
    job = job_of(tmp_path / "0")
    executor.submit(job)
    assert not executor.has_begun(0)
    assert not mailbox.begin(job.directory)
    assert executor.has_begun(0)
    # What submitit calls on the node when SLURM preempts the job.
    ClusterJob(job).checkpoint()
    assert not executor.has_begun(0)
    assert mailbox.begin(job.directory)
    assert executor.has_begun(0)


def test_a_controllers_orphan_is_given_up(tmp_path: Path) -> None:
    """Its job may run on in the cluster while its point runs again."""
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    trial = study.ask({"gamma": controller.space.distributions["gamma"]})
    trial.set_user_attr("controller", "dead")
    trial.set_user_attr("directory", "trials/0000")
    controller.folder.trial(0).mkdir(parents=True)
    controller.run()
    assert states(study) == ["FAIL", "COMPLETE"]
    assert mailbox.is_given_up(controller.folder.trial(0))


def local(tmp_path: Path, slots: int = 2) -> SubmititCluster:
    config = SubmititExecutorConfig(kind="submitit", cluster="local", slots=slots, minutes=5)
    return SubmititCluster(config, TrainerConfig(), tmp_path / "s" / "submitit")


@pytest.mark.slow
def test_a_study_runs_and_prunes_by_submitit(tmp_path: Path) -> None:
    executor = ClusterExecutor(local(tmp_path), threads=1, run=cluster_trials.cheap_trial)
    controller, study, _ = controller_of(
        tmp_path,
        executor,
        trials=4,
        sampler={"kind": "grid"},
        # Good ones first, so that there is what to prune.
        enqueue=[{"gamma": 0.8, "epochs": 2}, {"gamma": 0.6, "epochs": 2}],
        pruner=PrunerConfig(kind="median", startup_trials=1),
        space=GRID,
    )
    controller.run()
    found = states(study)
    assert found.count("COMPLETE") + found.count("PRUNED") == 4
    assert "PRUNED" in found
    processes = {p.read_text() for p in (tmp_path / "studies/s/trials").glob("*/process")}
    assert len(processes) == 4
    until(lambda: not any(is_alive(int(p.split()[1])) for p in processes), 15)


class KillsHeldJobs(ClusterExecutor):
    """As a node's failure would."""

    def __init__(self, trials: Path, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trials = trials
        self.killed: list[int] = []

    def wait(self, on_report: Any, timeout: float) -> Any:
        for held in self.trials.glob("*/held"):
            pid = int(held.read_text() or 0)
            if pid and pid not in self.killed:
                self.killed.append(pid)
                os.kill(pid, signal.SIGKILL)
        return super().wait(on_report, min(timeout, 0.3))


@pytest.mark.slow
def test_one_lost_job_loses_only_its_own_trial(tmp_path: Path) -> None:
    executor = KillsHeldJobs(
        tmp_path / "studies/s/trials",
        local(tmp_path),
        threads=1,
        grace=0.5,
        run=cluster_trials.held_trial,
    )
    controller, study, _ = controller_of(
        tmp_path, executor, trials=4, sampler={"kind": "grid"}, space=GRID
    )
    controller.run()
    done = [t.params["gamma"] for t in study.get_trials() if t.state.name == "COMPLETE"]
    assert sorted(done) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    # The two held ones were lost once, and run again in directories of their own.
    lost = [t for t in study.get_trials() if t.state.name == "FAIL"]
    assert len(lost) == len(executor.killed) == 2
    assert {t.user_attrs["failure"] for t in lost} == {"lost_worker"}


@pytest.mark.slow
def test_a_preempted_job_goes_on_from_its_checkpoint_in_its_own_directory(tmp_path: Path) -> None:
    cluster = local(tmp_path)
    executor = ClusterExecutor(cluster, threads=1, run=cluster_trials.preempted_trial)
    directory = tmp_path / "trial"
    executor.submit(job_of(directory))
    checkpoint = directory / "checkpoints" / "last.ckpt"
    pid = int(until(lambda: checkpoint.exists() and checkpoint.read_text()))
    (running,) = executor._running
    # The signal by which SLURM announces a preemption or the end of the time limit.
    os.kill(pid, signal.SIGUSR2)
    (ended,) = until(lambda: executor.wait(lambda *report: False, 1))
    assert not ended.lost
    record = TrialRecord.read(directory)
    assert record.state == "complete"
    assert record.report["resumed from"] == str(directory)
    assert record.identity.attempt == 0
    assert (directory / "process").read_text().split()[1] != str(pid)
    running.handle._process.wait(30)


@pytest.mark.slow
def test_closing_leaves_no_process(tmp_path: Path) -> None:
    executor = ClusterExecutor(local(tmp_path), threads=1, run=cluster_trials.held_trial)
    executor.submit(job_of(tmp_path / "trial", gamma=0.1))
    held = tmp_path / "trial" / "held"
    pid = int(until(lambda: held.exists() and held.read_text()))
    assert is_alive(pid)
    executor.close()
    assert until(lambda: not is_alive(pid), 15)


def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> SubmititCluster:
    commands = false_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    config = SubmititExecutorConfig(kind="submitit", slots=2, cpus=3, **options)
    return SubmititCluster(
        config, TrainerConfig(devices=2, strategy="ddp"), tmp_path / "s" / "submitit"
    )


def test_slurm_is_asked_for_what_a_trial_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path, monkeypatch, minutes=30, slurm={"partition": "gpu", "qos": "low"})
    executor = ClusterExecutor(cluster, threads=3, run=cluster_trials.cheap_trial)
    executor.submit(job_of(tmp_path / "trial"))
    (script,) = (tmp_path / "slurm" / "jobs").glob("*.sh")
    lines = script.read_text().splitlines()
    for option in (
        "--cpus-per-task=6",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--partition=gpu",
        "--qos=low",
        "--time=30",
    ):
        assert f"#SBATCH {option}" in lines
    executor.close()


def test_an_unknown_option_of_slurm_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"executor\.slurm: .*partitoin"):
        slurm(tmp_path, monkeypatch, slurm={"partitoin": "gpu"})


def test_slurm_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no srun on this host"):
        SubmititCluster(SubmititExecutorConfig(kind="submitit"), TrainerConfig(), tmp_path)


@pytest.mark.slow
def test_slurm_requeues_a_preempted_job_which_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = ClusterExecutor(
        slurm(tmp_path, monkeypatch), threads=1, run=cluster_trials.preempted_trial
    )
    directory = tmp_path / "trial"
    executor.submit(job_of(directory))
    checkpoint = directory / "checkpoints" / "last.ckpt"
    pid = int(until(lambda: checkpoint.exists() and checkpoint.read_text()))
    os.kill(pid, signal.SIGUSR2)
    (ended,) = until(lambda: executor.wait(lambda *report: False, 1))
    assert not ended.lost
    assert TrialRecord.read(directory).report["resumed from"] == str(directory)
    executor.close()


@pytest.mark.slow
def test_a_job_that_slurm_lost_is_told_by_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path, monkeypatch)
    executor = ClusterExecutor(cluster, threads=1, grace=0, run=cluster_trials.held_trial)
    executor.submit(job_of(tmp_path / "trial", gamma=0.1))
    held = tmp_path / "trial" / "held"
    pid = int(until(lambda: held.exists() and held.read_text()))
    (tmp_path / "slurm" / "jobs" / "1.fate").write_text("NODE_FAIL")
    os.kill(pid, signal.SIGKILL)
    (ended,) = until(lambda: executor.wait(lambda *report: False, 1))
    assert ended.lost.startswith("job lost: job 1 is NODE_FAIL")
    executor.close()


@pytest.mark.slow
def test_a_real_sweep_by_submitit_from_the_command_line(tmp_path: Path, quick: list[str]) -> None:
    words = [
        *quick,
        "executor=submitit",
        "executor.cluster=local",
        "executor.slots=2",
        "gamma=choice(0,1)",
        "sweep.trials=2",
        "sweep.sampler.kind=grid",
    ]
    main(["sweep", *words, "study=jobs"])
    study = load_study(tmp_path / "outputs", "jobs")
    assert states(study) == ["COMPLETE"] * 2
    logs = list((tmp_path / "outputs/studies/jobs/trials").glob("*/log.txt"))
    assert len(logs) == 2
    assert all("train" in log.read_text() for log in logs)

    where = ["--output-dir", str(tmp_path / "outputs")]
    main(["confirm", "jobs", "--top", "2", "--seeds", "2", "--as-swept", *where])
    confirmed = tmp_path / "outputs/studies/jobs/confirm"
    assert len(list(confirmed.glob("*/record.json"))) == 4
    # What a job of the cluster leaves, and a run of this machine does not.
    assert len(list(confirmed.glob("*/mail/begun"))) == 4
