"""Steps in parts: what is kept at once is bounded, and the step stays the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_runs import COUNT, labelled, run, weights
from stopped_training import stopping_at

from rmexp.reward.batches import PairBatch, PairSampler
from rmexp.reward.module import RewardModule

WEIGHTED = labelled(
    margin=np.linspace(0, 1, COUNT),
    target=np.linspace(1, 0.6, COUNT),
    weight=np.linspace(0.5, 2, COUNT),
)


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("micro", [1, 3, 5])
def test_a_step_in_parts_is_the_same_step(
    model: str, micro: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 pairs in batches of 5: a step of the last 3 ends each epoch."""
    options: dict[str, Any] = {"train": WEIGHTED, "epochs": 2, "batch_pairs": 5}
    options["learning_rate"] = 2e-4  # AdamW makes whole steps of rounding where gradients are tiny
    whole = run(tmp_path, cache, model, **options)
    sizes: list[int] = []
    original = RewardModule.training_step

    def noting(self: RewardModule, batch: PairBatch, batch_index: int) -> torch.Tensor:
        sizes.append(len(batch.index))
        return original(self, batch, batch_index)

    monkeypatch.setattr(RewardModule, "training_step", noting)
    parts = run(tmp_path, cache, model, micro_batch_pairs=micro, **options)
    assert max(sizes) <= micro
    assert sum(sizes) == 2 * COUNT
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, atol=1e-5, rtol=0)
    for old, new in zip(whole.history, parts.history, strict=True):
        for name in ("step", "train/loss", "train/gradient_norm", "validation/loss"):
            assert new[name] == pytest.approx(old[name], abs=1e-5), name


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_run_in_parts_goes_on_to_the_same_bits(stop_at: int, tmp_path: Path, cache: Path) -> None:
    """Epochs of three steps in three, three and two parts, a checkpoint due behind each step."""
    options: dict[str, Any] = {"epochs": 2, "batch_pairs": 5, "micro_batch_pairs": 2}
    options["checkpoint_steps"] = 1
    whole = run(tmp_path / "whole", cache, **options)
    calls = itertools.count(1)
    # Within the step: its first part is lost.
    with (
        stopping_at(stop_at, KeyError("stopped"), where=lambda module: next(calls) == 2),
        pytest.raises(KeyError),
    ):
        run(tmp_path / "cut", cache, **options)
    resumed = run(tmp_path / "cut", cache, must_resume=True, **options)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight), name
    assert [row["step"] for row in resumed.history] == [3, 6]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("micro", [None, 1, 2, 4])
def test_all_ranks_take_as_many_parts_and_every_pair_once(ranks: int, micro: int | None) -> None:
    samplers = [
        PairSampler(13, batch_pairs=5, seed=0, rank=r, ranks=ranks, micro_batch_pairs=micro)
        for r in range(ranks)
    ]
    drawn = [list(sampler) for sampler in samplers]
    assert {len(parts) for parts in drawn} == {len(samplers[0])}
    seen = np.concatenate([part.index for parts in drawn for part in parts])
    assert sorted(seen[seen >= 0]) == list(range(13))
    for at_once in zip(*drawn, strict=True):
        assert len({part.global_weight for part in at_once}) == 1
