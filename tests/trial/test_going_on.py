"""A trial that goes on from another's checkpoint, with real training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmexp.reward.module import RewardModule
from rmexp.trial.record import TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import TrialConfig, trial_config

# 20 pairs to train on in batches of 4, three epochs.
STEPS = 15


@pytest.fixture
def plain(tmp_path: Path) -> dict:
    return {
        "r": 1,
        "epochs": 3,
        "learning_rate": 0.01,
        "data": {"limit": 40},
        "rules": {"ids": ["answers_alarming_wording", "no_invented_intent"]},
        "rater": {"kind": "custom", "target": "word_rater:WordRater"},
        "model": {"name": "tiny"},
        "trainer": {"threads": 1, "batch_pairs": 4, "warmup_steps": 0, "checkpoint_steps": 1},
        "tracker": {"kind": "none"},
        "cache_dir": str(tmp_path / "cache"),
    }


def cut(config: TrialConfig, directory: Path, *, at: int) -> TrialRecord:
    """The trial fails at a step."""
    original = RewardModule.training_step

    def stopping(self: RewardModule, batch: Any, batch_index: int) -> Any:
        if self.global_step == at:
            raise RuntimeError("the machine caught fire")
        return original(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModule, "training_step", stopping)
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
