"""Packed rows: the scores and gradients of plain ones, by FlexAttention and by whole matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_runs import run, weights
from shared_prompts import CONFIGS, families
from small_models import classifier_of

from rmexp.backbone import attention, packed
from rmexp.backbone.attention import use_short_rows
from rmexp.backbone.classifier import Classifier
from rmexp.backbone.packed import packed_rows
from rmexp.backbone.packing import MaskLayout
from rmexp.backbone.parallel import parallel_scores
from rmexp.errors import UserError

# GPT-2 takes no mask of blocks.
PACKING = [name for name in CONFIGS if name != "gpt2"]


def packing(name: str) -> Classifier:
    classifier = classifier_of(CONFIGS[name])
    use_short_rows(classifier.inner)
    return classifier


@pytest.mark.parametrize("name", PACKING)
@pytest.mark.parametrize("attend_by", ["whole matrix", "flex"])
def test_packed_rows_give_the_scores_and_gradients_of_plain_ones(
    name: str, attend_by: str, monkeypatch: pytest.MonkeyPatch
):
    """FlexAttention itself by its scores alone: it has no backward pass on a CPU."""
    gradients = attend_by == "whole matrix"
    if not gradients:
        monkeypatch.setattr(attention, "whole_matrix", packed.flex)
    classifier = packing(name)
    tokens, groups = families()
    assert classifier.packs_exactly

    def run(packs: bool, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
        classifier.packs = packs
        classifier.model.zero_grad()
        with torch.set_grad_enabled(gradients):
            rows = classifier.rows(tokens, groups if packs else None, budget)
            scores = parallel_scores(classifier, rows, len(tokens))
        if not gradients:
            return scores, torch.zeros(0)
        (scores * torch.linspace(-1, 1, len(tokens))).sum().backward()
        found = [p.grad.flatten() for p in classifier.model.parameters() if p.grad is not None]
        return scores.detach(), torch.cat(found)

    plain, plain_gradient = run(packs=False, budget=1)
    for budget in (32, 200):
        scores, gradient = run(packs=True, budget=budget)
        assert scores == pytest.approx(plain, abs=1e-5)
        assert torch.allclose(gradient, plain_gradient, atol=1e-4, rtol=1e-4)


def test_rows_are_filled_up_to_the_budget():
    tokens, groups = families()
    layout = MaskLayout("one", None)
    rows = packed_rows(tokens, groups, token_budget=40, pad_id=0, layout=layout)
    # Families of 33, 26, 10, 9 and 5 tokens: first fit, longest first.
    assert sorted(r.tokens for r in rows) == [9, 36, 38]
    assert all(r.input_ids.shape == (1, 128) for r in rows)
    assert sorted(np.concatenate([r.sequence for r in rows])) == list(range(len(tokens)))


def test_scores_are_capped_where_a_model_caps_them():
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 128, 8, generator=draw) * 3 for _ in range(3))
    tokens, groups = families()
    (rows,) = packed_rows(
        tokens, groups, token_budget=200, pad_id=0, layout=MaskLayout("one", None)
    )
    given = query, key, value, rows.attention_mask.masks(), 8**-0.5
    with torch.no_grad():
        flex, free = packed.flex(*given, 2.0), packed.flex(*given, None)
    torch.testing.assert_close(flex, packed.whole_matrix(*given, 2.0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(flex, free, atol=1e-2)


@pytest.mark.parametrize("kind", ["full", "last_k"])
def test_training_on_packed_rows_trains_the_same_model(kind: str, tmp_path: Path, cache: Path):
    from rmexp.backbone.options import PeftOptions

    options: dict[str, Any] = {"learning_rate": 2e-4, "peft": PeftOptions(kind=kind, last_k=1)}
    usual = run(tmp_path / "usual", cache, **options)
    flex = run(tmp_path / "flex", cache, attention="flex", **options)
    for name, weight in weights(usual).items():
        torch.testing.assert_close(weights(flex)[name], weight, atol=1e-5, rtol=0)
    for old, new in zip(usual.history, flex.history, strict=True):
        assert new["train/loss"] == pytest.approx(old["train/loss"], abs=1e-5)
        assert new["validation/loss"] == pytest.approx(old["validation/loss"], abs=1e-5)


def test_what_cannot_be_packed_is_refused(tmp_path: Path, cache: Path):
    assert not packing("gpt2").packs_exactly
    with pytest.raises(UserError, match=r"trainer\.attention=flex: this model cannot"):
        run(tmp_path, cache, "tiny_encoder", attention="flex")
