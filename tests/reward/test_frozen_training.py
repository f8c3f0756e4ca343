"""Training and scoring from what frozen layers gave before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reward_runs import held_out, run, weights

from rmexp.backbone.options import PeftOptions
from rmexp.reward.model import load_reward_model
from rmexp.reward.module import RewardModule


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["head_only", "last_k"])
def test_cached_frozen_layers_train_the_same_model(model: str, kind: str, tmp_path: Path):
    options = {"peft": PeftOptions(kind=kind, last_k=1), "epochs": 2}
    cache = tmp_path / "cache"
    plain = run(tmp_path, cache, model, frozen_cache_bytes=0, **options)
    first = run(tmp_path, cache, model, **options)
    second = run(tmp_path, cache, model, **options)
    assert first.metrics["frozen_computed"] > 0
    assert second.metrics["frozen_computed"] == 0
    for name, weight in weights(plain).items():
        assert torch.allclose(weights(first)[name], weight, atol=2e-5), name
        assert torch.equal(weights(first)[name], weights(second)[name]), name


@pytest.mark.parametrize("kind", ["head_only", "last_k"])
def test_tokens_are_counted_where_their_states_were_kept(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A text of which one state is run is still a text of all its tokens."""
    seen: list[int] = []
    original = RewardModule.on_train_epoch_end

    def kept(self: RewardModule) -> None:
        original(self)
        seen.append(self.tokens_seen)

    monkeypatch.setattr(RewardModule, "on_train_epoch_end", kept)
    options = {"peft": PeftOptions(kind=kind, last_k=1), "share_prompts": False}
    plain = run(tmp_path, tmp_path / "cache", frozen_cache_bytes=0, **options)
    cached = run(tmp_path, tmp_path / "cache", **options)
    assert cached.metrics["frozen_computed"] > 0
    assert seen[0] == seen[1] > 100
    for trained in (plain, cached):
        assert trained.history[0]["train/tokens_saved"] == 0


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["head_only", "last_k"])
def test_a_saved_model_scores_from_the_states_that_training_kept(
    model: str, kind: str, tmp_path: Path, cache: Path
):
    peft = PeftOptions(kind=kind, last_k=1)
    trained = run(tmp_path, cache, model, peft=peft, save=True, learning_rate=1e-2)
    prompts = [p.prompt for p in held_out()] * 2
    responses = [p.response_a for p in held_out()] + [p.response_b for p in held_out()]
    assert trained.path is not None
    plain = load_reward_model(trained.path).score(prompts, responses)
    scorer = load_reward_model(trained.path)
    scorer.keep_frozen_states(peft, trained.base_fingerprint, cache, 1 << 30)
    assert scorer.score(prompts, responses) == pytest.approx(plain, abs=1e-6)
    assert scorer.frozen is not None
    assert scorer.frozen.reused > 0  # what was judged after each epoch

    # Another model's states would be silently wrong.
    stranger = load_reward_model(trained.path)
    with torch.no_grad():
        for name, weight in stranger.classifier.trunk.named_parameters():
            if name.endswith("weight"):
                weight.mul_(1.5)
    expected = stranger.score(prompts, responses)
    stranger.keep_frozen_states(peft, trained.base_fingerprint, cache, 1 << 30)
    assert stranger.score(prompts, responses) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["head_only", "last_k"])
def test_what_a_model_saved_in_bf16_gives_is_no_states_of_a_float32_run(kind: str, tmp_path: Path):
    """Both come from the same weights, and both are run in float32 without autocast."""
    peft = PeftOptions(kind=kind, last_k=1)
    cache = tmp_path / "cache"
    low = run(tmp_path / "low", cache, peft=peft, precision="bf16", save=True)
    assert low.path is not None
    prompts = [p.prompt for p in held_out()] * 2
    responses = [p.response_a for p in held_out()] + [p.response_b for p in held_out()]
    for found in (0, 14):
        scorer = load_reward_model(low.path)
        scorer.keep_frozen_states(peft, low.base_fingerprint, cache, 1 << 30)
        scorer.score(prompts, responses)
        assert scorer.frozen is not None
        assert scorer.frozen.reused == found
    after = run(tmp_path / "after", cache, peft=peft)
    alone = run(tmp_path / "alone", tmp_path / "other", peft=peft)
    assert after.history[0]["validation/loss"] == alone.history[0]["validation/loss"]
    assert after.history[0]["train/loss"] == alone.history[0]["train/loss"]
