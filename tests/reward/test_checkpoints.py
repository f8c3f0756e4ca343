"""Runs that stop and go on: what a checkpoint holds, when it is written, and whose it is."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reward_runs import COUNT, labelled, run, weights
from stopped_training import stopping_at

from rmexp.backbone.options import PeftOptions
from rmexp.errors import UserError
from rmexp.reward.module import PairOutcomes, RewardModule


def test_outcomes_on_a_device_join_those_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch):
    """A device that this machine has not: meta, read as zeros."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape))
    outcomes = PairOutcomes([np.arange(2)], [torch.ones(2, 3)])
    outcomes.add(np.array([2, -1]), *torch.ones(3, 2, device="meta"))
    index, values = outcomes.gather(SimpleNamespace(world_size=1))
    assert index.tolist() == [0, 1, 2]
    assert values.tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]


def cut(directory: Path, cache: Path, *, at: int, **options: Any) -> None:
    """A run that stops by an error at a step, and leaves its checkpoint."""
    with stopping_at(at, KeyError("stopped")), pytest.raises(KeyError):
        run(directory, cache, **options)


@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_a_stopped_run_goes_on_to_the_same_bits(stop_at: int, tmp_path: Path, cache: Path):
    options: dict[str, Any] = {
        "peft": PeftOptions(kind="lora", dropout=0.2),
        "epochs": 3,
        "checkpoint_steps": 2,
        "drift": lambda earlier, later: {"moved": float(np.abs(later - earlier).max())},
    }
    whole = run(tmp_path / "whole", cache, **options)
    assert whole.history[-1]["validation/moved"] > 0
    assert whole.history[0]["train/tokens_saved"] > 0.2
    cut(tmp_path / "cut", cache, at=stop_at, **options)
    seen: list[int] = []
    resumed = run(
        tmp_path / "cut", cache, resume=True, report=lambda epoch, _: seen.append(epoch), **options
    )
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight), name
    assert seen[-1] == 3
    quick = ("train/tokens_per_second", "train/pairs_per_second")
    for old, new in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in old.items() if k not in quick} == pytest.approx(
            {k: v for k, v in new.items() if k not in quick}, abs=1e-6
        )
    assert not (tmp_path / "cut" / "checkpoints").exists()


@pytest.mark.parametrize(("every", "saved_at"), [(4, 5), (3, 3), (8, 9)])
def test_a_checkpoint_due_on_an_epochs_last_step_is_written_on_the_next(
    every: int, saved_at: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """An epoch has four steps: with 4 none was ever written."""
    from rmexp.reward.module import RewardModule

    original = RewardModule.training_step

    def stopping(self: RewardModule, batch: Any, batch_index: int) -> torch.Tensor:
        if (tmp_path / "checkpoints" / "last.ckpt").exists():
            raise KeyError("stopped")
        return original(self, batch, batch_index)

    monkeypatch.setattr(RewardModule, "training_step", stopping)
    with pytest.raises(KeyError):
        run(tmp_path, cache, epochs=3, checkpoint_steps=every)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == saved_at


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_steps": 4}, "checkpoint_steps=4: a run of 1 x 4 steps writes no checkpoint"),
        ({"checkpoint_steps": 1, "batch_pairs": COUNT, "epochs": 3}, "one step an epoch"),
        ({"checkpoint_steps": 3}, ""),
        ({"checkpoint_steps": 4, "epochs": 2}, ""),
    ],
)
def test_a_run_without_room_for_a_checkpoint_says_so(
    options: dict[str, Any],
    said: str,
    tmp_path: Path,
    cache: Path,
    capfd: pytest.CaptureFixture[str],
):
    run(tmp_path, cache, **options)
    assert (said in capfd.readouterr().err) if said else not capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train": labelled().take(np.arange(10))}, "pairs"),
        ({"learning_rate": 5e-4}, "optimiser"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_a_checkpoint_of_another_run_is_not_gone_on_from(
    change: dict[str, Any],
    named: str,
    tmp_path: Path,
    cache: Path,
    capfd: pytest.CaptureFixture[str],
):
    """Pairs that could not be rated at first: the steps and outcomes would name other pairs."""
    options = {"epochs": 2, "checkpoint_steps": 1}
    cut(tmp_path / "cut", cache, at=5, **options)
    with pytest.raises(UserError, match=rf"ckpt_path: .*last.ckpt .* {named} differ"):
        run(tmp_path / "cut", cache, must_resume=True, **{**options, **change})
    fresh = run(tmp_path / "fresh", cache, **{**options, **change})
    assert capfd.readouterr().err == ""
    anew = run(tmp_path / "cut", cache, resume=True, **{**options, **change})
    assert f"{named} differ; training begins anew" in capfd.readouterr().err
    assert all(torch.equal(weights(fresh)[n], w) for n, w in weights(anew).items())
    assert [row["epoch"] for row in anew.history] == [row["epoch"] for row in fresh.history]


def test_a_checkpoint_that_must_be_there_is_missed(tmp_path: Path, cache: Path):
    with pytest.raises(UserError, match="ckpt_path: no checkpoint in"):
        run(tmp_path, cache, must_resume=True)


def test_what_another_run_has_left_is_not_taken_for_this_ones(tmp_path: Path, cache: Path):
    """Begun anew beside an old checkpoint, and ended before its own first."""
    cut(tmp_path, cache, at=3, epochs=2, checkpoint_steps=1)
    cut(tmp_path, cache, at=1, epochs=2, checkpoint_steps=2, seed=5)
    with pytest.raises(UserError, match="no checkpoint in"):
        run(tmp_path, cache, epochs=2, seed=5, must_resume=True)


def test_the_time_of_a_resumed_epoch_counts_without_validation_too(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """A clock that goes on by a second at each look: the rest of the epoch is no time at all."""
    from rmexp.reward import module

    seconds = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr(module, "time", clock)
    options = {"checkpoint_steps": 1, "validation": None}
    cut(tmp_path, cache, at=2, **options)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["rmexp"]
    resumed = run(tmp_path, cache, resume=True, **options)
    assert resumed.metrics["seconds"] > saved["epoch_seconds"]


def test_a_checkpoint_holds_only_what_is_trained(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from rmexp.reward import train as module

    monkeypatch.setattr(module, "remove_checkpoints", lambda folder: None)
    run(tmp_path, cache, peft=PeftOptions(kind="lora"), checkpoint_steps=2)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all("lora_" in n or "score" in n for n in saved["state_dict"])
    assert saved["state_dict"]
