"""A trial that goes on from another's checkpoint, with real training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quick_config import quick_config
from stopped_training import stopping_at

from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.trial.going_on import forget_checkpoints, run_to_go_on
from rmexp.trial.record import TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import TrialConfig, trial_config

ROOT = Path(__file__).resolve().parents[2]
# 20 pairs to train on in batches of 4, three epochs.
STEPS = 15


@pytest.fixture
def plain(tmp_path: Path) -> dict:
    return quick_config(
        tmp_path,
        epochs=3,
        learning_rate=0.01,
        trainer={"threads": 1, "batch_pairs": 4, "warmup_steps": 0, "checkpoint_steps": 1},
    )


def cut(config: TrialConfig, directory: Path, *, at: int) -> TrialRecord:
    """The trial fails at a step."""
    with stopping_at(at, RuntimeError("the machine caught fire")):
        record = run_trial(config, directory=directory)
    assert record.reason == "RuntimeError: the machine caught fire"
    return record


def weights(directory: Path) -> bytes:
    return (directory / "model" / "model.safetensors").read_bytes()


def slow_rows(record: TrialRecord) -> list[dict[str, float]]:
    return [{n: v for n, v in r.items() if "_per_second" not in n} for r in record.history]


def test_a_trial_that_goes_on_has_the_history_of_the_whole(plain: dict, tmp_path: Path) -> None:
    config = trial_config(plain)
    reports: list[list[tuple[int, float]]] = [[], []]
    whole = run_trial(
        config,
        directory=tmp_path / "whole",
        report=lambda *told: bool(reports[0].append(told)),
    )
    assert whole.history[-1]["step"] == STEPS
    cut(config, tmp_path / "cut", at=12)
    resumed = run_trial(
        config,
        directory=tmp_path / "resumed",
        report=lambda *told: bool(reports[1].append(told)),
        resume_from=tmp_path / "cut",
    )
    assert resumed.state == "complete", resumed.traceback
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    for old, new in zip(slow_rows(whole), slow_rows(resumed), strict=True):
        assert new == pytest.approx(old, abs=1e-6)
    assert reports[1] == reports[0]
    assert resumed.objective == whole.objective


def test_what_a_suite_said_between_epochs_is_not_lost(plain: dict, tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    with suite.open("w") as stream:
        for i in range(1, 7):
            row = {"id": f"s{i}", "prompt": f"Question {i}?", "response_a": "yes " * i}
            stream.write(json.dumps(row | {"response_b": "no", "preference": "a"}) + "\n")
    mine = {"kind": "file", "path": str(suite), "name": "Mine", "licence": "MIT"}
    plain["evaluation"] = {"objective": "'mine/loss'", "suites": {"mine": mine}}
    config = trial_config(plain)
    before = cut(config, tmp_path / "cut", at=12)
    reports: list[float] = []
    resumed = run_trial(
        config,
        directory=tmp_path / "resumed",
        report=lambda epoch, value: bool(reports.append(value)),
        resume_from=tmp_path / "cut",
    )
    assert resumed.state == "complete", resumed.traceback
    assert [row["mine/loss"] for row in resumed.history[:2]] == [
        row["mine/loss"] for row in before.history
    ]
    assert reports == [row["mine/loss"] for row in resumed.history]
    # What would be compared with is another model than that of the epoch before.
    assert "mine/score_shift" in resumed.history[1]
    assert "mine/score_shift" not in resumed.history[2]


def test_what_was_decided_before_the_checkpoint_stays_decided(plain: dict, tmp_path: Path) -> None:
    """The search has seen more since; the trial is judged by its next epoch."""
    config = trial_config(plain)
    cut(config, tmp_path / "cut", at=12)
    resumed = run_trial(
        config,
        directory=tmp_path / "resumed",
        report=lambda epoch, value: epoch < 3,
        resume_from=tmp_path / "cut",
    )
    assert resumed.state == "complete", resumed.reason


def kill_9(words: list[str], *, at: int, cwd: Path) -> None:
    """The command line in a process of its own, killed before it takes a step."""
    code = (
        "import os, signal, sys\n"
        "from rmexp.reward.module import RewardModule\n"
        "original = RewardModule.training_step\n"
        "def step(self, batch, index):\n"
        f"    if self.global_step == {at}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, batch, index)\n"
        "RewardModule.training_step = step\n"
        "from rmexp.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "doubles")])
    killed = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        timeout=240,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.fixture
def words(quick: list[str]) -> list[str]:
    """Five steps an epoch, a checkpoint at each second one."""
    steps = ["trainer.batch_pairs=4", "trainer.checkpoint_steps=2", "trainer.warmup_steps=0"]
    return ["train", *quick, *steps, "epochs=3", "learning_rate=0.01"]


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_epoch_then_ckpt_path_last(
    words: list[str], tmp_path: Path
) -> None:
    kill_9(words, at=9, cwd=tmp_path)
    runs = tmp_path / "outputs" / "runs"
    (killed,) = runs.iterdir()
    assert not (killed / "record.json").exists()
    assert (killed / "checkpoints" / "last.ckpt").exists()
    main([*words, "ckpt_path=last"])
    (resumed,) = set(runs.iterdir()) - {killed}
    main([*words, f"output_dir={tmp_path / 'whole'}"])
    (whole,) = (tmp_path / "whole" / "runs").iterdir()
    assert weights(resumed) == weights(whole)
    assert [row["epoch"] for row in TrialRecord.read(resumed).history] == [1, 2, 3]
    # Both are over: nothing is left to go on from, and nothing of it on the disk.
    assert not list(runs.glob("*/checkpoints"))


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **options: Any) -> None:
        raise AssertionError("a run has begun")

    monkeypatch.setattr("rmexp.trial.run.run_trial", run)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(words)
    return capsys.readouterr().err


@pytest.mark.usefixtures("no_run")
def test_a_ckpt_path_that_cannot_be_gone_on_from_is_named(
    plain: dict, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "outputs" / "runs"
    said = refused([*words, "ckpt_path=last"], capsys)
    assert "ckpt_path=last: no unfinished run with a checkpoint" in said
    said = refused([*words, "ckpt_path=nowhere"], capsys)
    assert "ckpt_path: no such folder: nowhere; looked in" in said
    (runs / "20260101-120000").mkdir(parents=True)
    said = refused([*words, f"ckpt_path={runs / '20260101-120000'}"], capsys)
    assert "20260101-120000 is no run with a checkpoint" in said
    cut(trial_config(plain), runs / "20260101-120000-2", at=3)
    said = refused([*words, "ckpt_path=last"], capsys)
    assert "rules.ids was [" in said
    assert "; give the same to go on" in said
    said = refused(["sweep", *words[1:], "gamma=choice(0,1)", "ckpt_path=last"], capsys)
    assert "ckpt_path: is for rmexp train alone" in said


def test_last_is_the_newest_run_that_has_a_checkpoint_and_no_end(
    plain: dict, tmp_path: Path
) -> None:
    config = trial_config(plain)
    runs = tmp_path / "runs"
    for name in ("20260101-120000-10", "20260101-120000-2", "20251231-235959"):
        cut(config, runs / name, at=3)
    (runs / "20260102-000000").mkdir()  # died before its first checkpoint
    shutil.copytree(runs / "20251231-235959", runs / "20260103-000000")
    record = TrialRecord.read(runs / "20260103-000000")
    replace(record, state="complete").write(runs / "20260103-000000")
    assert run_to_go_on("last", tmp_path, config).name == "20260101-120000-10"
    others = {"threads": 2, "checkpoint_steps": 3}
    free = {**plain, "cache_dir": "elsewhere", "trainer": {**plain["trainer"], **others}}
    assert run_to_go_on("last", tmp_path, trial_config(free)).name == "20260101-120000-10"
    free["trainer"]["batch_pairs"] = 8
    with pytest.raises(UserError, match=r"trainer\.batch_pairs was 4, now 8; give the same"):
        run_to_go_on("last", tmp_path, trial_config(free))


def test_a_run_that_came_to_its_end_leaves_no_attempt_to_go_on_from(
    plain: dict, tmp_path: Path
) -> None:
    config, other = trial_config(plain), trial_config({**plain, "seed": 5})
    runs = tmp_path / "runs"
    cut(config, runs / "20260101-120000", at=3)
    cut(other, runs / "20260101-130000", at=3)
    shutil.copytree(runs / "20260101-120000", runs / "20260101-140000")  # killed again
    last = run_to_go_on("last", tmp_path, config)
    assert last.name == "20260101-140000"
    forget_checkpoints(last, tmp_path)
    assert [p.parent.name for p in runs.glob("*/checkpoints")] == ["20260101-130000"]


@pytest.mark.parametrize("saved", [True, False])
def test_an_interrupted_run_says_how_it_goes_on(
    saved: bool,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*args: Any, directory: Path, **options: Any) -> None:
        (directory / "checkpoints").mkdir(parents=True)
        if saved:
            (directory / "checkpoints" / "last.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("rmexp.trial.run.run_trial", interrupted)
    said = refused(words, capsys)
    assert ("the same command goes on with ckpt_path=last" in said) == saved
    assert ("the same command begins again" in said) != saved


def test_pairs_rated_since_then_are_no_reason_to_fail_a_retry_but_an_explicit_one(
    plain: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rater was down for some pairs: its answers now give other pairs to train on."""
    down = tmp_path / "down"
    down.touch()
    plain["rater"] = {
        "kind": "custom",
        "target": "flaky_rater:FlakyRater",
        "options": {"down": str(down)},
    }
    config = trial_config(plain)
    cut(config, tmp_path / "cut", at=7)
    down.unlink()
    refused = run_trial(
        config, directory=tmp_path / "refused", resume_from=tmp_path / "cut", must_resume=True
    )
    assert refused.state == "failed"
    assert "ckpt_path: " in refused.reason
    assert "pairs differ" in refused.reason
    assert capfd.readouterr().err == ""
    resumed = run_trial(config, directory=tmp_path / "resumed", resume_from=tmp_path / "cut")
    assert resumed.state == "complete", resumed.traceback
    assert "pairs differ; training begins anew" in capfd.readouterr().err
    run_trial(config, directory=tmp_path / "fresh")
    assert weights(tmp_path / "resumed") == weights(tmp_path / "fresh")
    assert len(resumed.history) == 3


def test_a_pruned_trial_leaves_no_checkpoint(plain: dict, tmp_path: Path) -> None:
    seen: list[bool] = []

    def report(epoch: int, value: float) -> bool:
        seen.append((tmp_path / "t" / "checkpoints").exists())
        return epoch == 2

    record = run_trial(trial_config(plain), directory=tmp_path / "t", report=report)
    assert record.state == "pruned"
    assert seen == [True, True]
    assert not (tmp_path / "t" / "checkpoints").exists()


@pytest.mark.slow
def test_two_ranks_go_on_where_one_was_cut(plain: dict, tmp_path: Path) -> None:
    config = trial_config(plain)
    whole = run_trial(config, directory=tmp_path / "whole")
    cut(config, tmp_path / "cut", at=12)
    ranks = {"devices": 2, "strategy": "ddp"}
    two = trial_config({**plain, "trainer": {**plain["trainer"], **ranks}})
    reports: list[int] = []
    resumed = run_trial(
        two,
        directory=tmp_path / "two",
        report=lambda epoch, value: bool(reports.append(epoch)),
        resume_from=tmp_path / "cut",
        must_resume=True,
    )
    assert resumed.state == "complete", resumed.traceback
    assert reports == [1, 2, 3]
    for old, new in zip(slow_rows(whole), slow_rows(resumed), strict=True):
        assert new == pytest.approx(old, abs=1e-4)
    changed = trial_config({**two.to_plain(), "learning_rate": 0.02})
    refused = run_trial(
        changed, directory=tmp_path / "no", resume_from=tmp_path / "cut", must_resume=True
    )
    assert refused.state == "failed"
    assert "optimiser differ" in refused.reason
