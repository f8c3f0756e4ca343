from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_runs import COUNT, held_out, labelled, run, weights

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, differences
from rmexp.preferences.pair import prompt_from_text
from rmexp.reward.data import TrainingPairs
from rmexp.reward.losses import NonFiniteError, bradley_terry_loss
from rmexp.reward.module import RewardModule
from rmexp.reward.options import LossOptions
from rmexp.reward.ranks import SameRun


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["full", "lora", "head_only", "last_k"])
def test_it_learns_whatever_is_trained(model: str, kind: str, tmp_path: Path, cache: Path):
    trained = run(
        tmp_path,
        cache,
        model,
        peft=PeftOptions(kind=kind, last_k=1),
        epochs=6,
        learning_rate=1e-2,
        validation=None,
    )
    losses = [row["train/loss"] for row in trained.history]
    assert losses[-1] < losses[0] - 0.02
    assert trained.history[-1]["step"] == 6 * 4


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_same_seed_gives_the_same_bits(kind: str, tmp_path: Path, cache: Path):
    options = {"peft": PeftOptions(kind=kind, dropout=0.1), "epochs": 2}
    first = run(tmp_path, cache, **options)
    torch.rand(3)
    second, other = run(tmp_path, cache, **options), run(tmp_path, cache, seed=2, **options)
    assert all(torch.equal(weights(first)[n], w) for n, w in weights(second).items())
    assert any(not torch.equal(weights(first)[n], w) for n, w in weights(other).items())


def plain_rewards(reference: Classifier, template: TextTemplate) -> list[torch.Tensor]:
    """Of the chosen and the rejected sides, text by text by plain transformers."""
    pairs, rewards = labelled(), []
    for side in (pairs.chosen, pairs.rejected):
        scores = []
        for prompt, response in zip(pairs.prompts, side, strict=True):
            ids = template.encode([prompt], [response])[0].ids
            batch = torch.tensor(ids[None].astype(np.int64))
            scores.append(reference.inner(input_ids=batch).logits[0, 0])
        rewards.append(torch.stack(scores))
    return rewards


def test_the_first_step_is_plain_bradley_terry(tmp_path: Path, cache: Path, tiny: Path):
    """One step over all pairs moves the head by AdamW's first step on the plain loss."""
    trained = run(
        tmp_path, cache, batch_pairs=COUNT, learning_rate=1e-3, validation=None, gradient_clip=None
    )
    reference = load_sequence_classifier(tiny, seed=1)
    loss = bradley_terry_loss(*plain_rewards(reference, trained.model.template))
    loss.backward()
    assert trained.history[0]["train/loss"] == pytest.approx(loss.item(), abs=1e-5)
    gradients = [p.grad for p in reference.model.parameters() if p.grad is not None]
    norm = torch.sqrt(sum((g**2).sum() for g in gradients)).item()
    assert trained.history[0]["train/gradient_norm"] == pytest.approx(norm, rel=1e-4)
    torch.optim.AdamW(reference.model.parameters(), lr=1e-3, weight_decay=0.0).step()
    moved = trained.model.classifier.inner.score.weight
    assert torch.allclose(moved, reference.inner.score.weight, atol=1e-5)


def test_validation_metrics_are_over_single_pairs(tmp_path: Path, cache: Path):
    """An odd last batch neither counts more nor is dropped."""
    trained = run(tmp_path, cache, validation=held_out(39), batch_pairs=2, epochs=1)
    known = [p for p in held_out(39) if p.preference]
    prompts = [p.prompt for p in known]
    delta = trained.model.score(prompts, [p.chosen for p in known]) - trained.model.score(
        prompts, [p.rejected for p in known]
    )
    row = trained.history[-1]
    assert row["validation/accuracy"] == pytest.approx((delta > 0).mean())
    assert row["validation/margin"] == pytest.approx(delta.mean(), abs=1e-5)
    assert row["validation/loss"] == pytest.approx(np.log1p(np.exp(-delta)).mean(), abs=1e-5)


def test_training_loss_is_over_single_pairs(tmp_path: Path, cache: Path):
    trained = run(tmp_path, cache, learning_rate=1e-12, validation=None)
    one = run(tmp_path, cache, learning_rate=1e-12, batch_pairs=COUNT, validation=None)
    assert trained.history[0]["train/loss"] == pytest.approx(one.history[0]["train/loss"], abs=1e-6)


COLUMNS = {
    "margin": np.linspace(0, 1, COUNT),
    "target": np.linspace(0.5, 1, COUNT),
    "weight": np.linspace(0.1, 2, COUNT),
}


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["margin"], LossOptions()),
        (["target"], LossOptions()),
        (["weight"], LossOptions()),
        ([], LossOptions(label_smoothing=0.2)),
        ([], LossOptions(center_coefficient=0.5)),
        ([*COLUMNS], LossOptions(label_smoothing=0.1, center_coefficient=0.3)),
    ],
    ids=["margin", "target", "weight", "smoothing", "centering", "all"],
)
def test_margin_target_and_weight_make_the_loss_of_the_formula(
    names: list[str],
    options: LossOptions,
    tiny: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    original = RewardModule.training_step
    steps: list[tuple[np.ndarray, float]] = []

    def kept(self: RewardModule, batch: Any, batch_index: int) -> torch.Tensor:
        loss = original(self, batch, batch_index)
        steps.append((batch.index, loss.item()))
        return loss

    monkeypatch.setattr(RewardModule, "training_step", kept)
    given = {name: COLUMNS[name] for name in names}
    # The weights stay where they begin.
    rate = {"learning_rate": 1e-12, "validation": None}
    trained = run(tmp_path, cache, train=labelled(**given), loss=options, **rate)
    reference = load_sequence_classifier(tiny, seed=1)
    with torch.inference_mode():
        rewards = plain_rewards(reference, trained.model.template)
    chosen, rejected = (side.double().numpy() for side in rewards)
    delta = chosen - rejected - given.get("margin", 0)
    sure, smoothing = given.get("target", np.ones(COUNT)), options.label_smoothing
    sure = (1 - smoothing) * sure + smoothing * (1 - sure)
    losses = sure * np.log1p(np.exp(-delta)) + (1 - sure) * np.log1p(np.exp(delta))
    losses += options.center_coefficient * (chosen + rejected) ** 2
    weight = given.get("weight", np.ones(COUNT))
    assert sorted(np.concatenate([index for index, _ in steps])) == list(range(COUNT))
    for index, loss in steps:
        expected = (weight[index] * losses[index]).sum() / weight[index].sum()
        assert loss == pytest.approx(expected, abs=1e-5)
    assert trained.history[0]["train/loss"] == pytest.approx(losses.mean(), abs=1e-5)


def test_a_nan_loss_names_the_pair(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self: Classifier, rows: Any) -> torch.Tensor:
        scores = original(self, rows)
        return torch.where(torch.from_numpy(rows.sequence) == 0, torch.nan, scores)

    original = Classifier.scores
    monkeypatch.setattr(Classifier, "scores", broken)
    with pytest.raises(NonFiniteError, match=r"loss is NaN or infinite at pairs t\d+$"):
        run(tmp_path, cache)


def test_a_report_may_stop_the_run(tmp_path: Path, cache: Path):
    class Pruned(Exception):
        pass

    seen = []

    def report(epoch: int, metrics: dict[str, float]) -> None:
        seen.append((epoch, metrics["validation/accuracy"]))
        if epoch == 2:
            raise Pruned

    with pytest.raises(Pruned):
        run(tmp_path, cache, epochs=5, report=report, save=True)
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert not (tmp_path / "model").exists()


def test_the_second_trial_tokenises_nothing(tmp_path: Path):
    first = run(tmp_path, tmp_path / "cache")
    swapped = labelled().take(np.arange(COUNT)[::-2])
    second = run(tmp_path, tmp_path / "cache", train=swapped, seed=5, epochs=2)
    assert first.metrics["tokenised"] > 0
    assert second.metrics["tokenised"] == 0


def test_tokens_are_encoded_once_not_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoded = []
    original = TextTemplate.encode

    def counted(self: TextTemplate, prompts: Any, responses: Any) -> Any:
        encoded.extend(responses)
        return original(self, prompts, responses)

    monkeypatch.setattr(TextTemplate, "encode", counted)
    run(tmp_path, tmp_path / "cache", epochs=3)
    assert len(encoded) == len(set(encoded))


def test_counts_are_reported(tmp_path: Path, cache: Path):
    trained = run(tmp_path, cache, max_length=24, train=labelled())
    assert trained.metrics["truncated"] > 0
    assert trained.metrics["pairs"] == COUNT
    assert trained.metrics["tokens_per_second"] > 0


def test_nothing_left_is_a_user_error(tmp_path: Path, cache: Path):
    prompt = prompt_from_text("p")
    same = TrainingPairs(["a"], [prompt], ["x"], ["x"])
    with pytest.raises(UserError, match="no pair is left"):
        run(tmp_path, cache, train=same)
    with pytest.raises(UserError, match="positions for 2048"):
        run(tmp_path, cache, max_length=4096)


def test_it_is_quiet(tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]):
    run(tmp_path, cache, save=True, peft=PeftOptions(kind="lora"))
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_sharing_prompts_trains_the_same_model(tmp_path: Path, cache: Path):
    apart = run(tmp_path, cache, share_prompts=False, learning_rate=1e-4)
    shared = run(tmp_path, cache, learning_rate=1e-4)
    assert shared.history[0]["train/tokens_saved"] > 0.2
    assert apart.history[0]["train/tokens_saved"] == 0
    assert shared.history[0]["train/loss"] == pytest.approx(
        apart.history[0]["train/loss"], abs=1e-5
    )
    for name, weight in weights(apart).items():
        assert torch.allclose(weights(shared)[name], weight, atol=1e-4), name


def test_drift_is_given_the_scores_of_the_epoch_before_and_of_this_one(tmp_path: Path, cache: Path):
    def drift(earlier: np.ndarray, later: np.ndarray) -> dict[str, float]:
        halves = [np.split(scores, 2) for scores in (earlier, later)]
        margins = [float((chosen - rejected).mean()) for chosen, rejected in halves]
        return {"before": margins[0], "now": margins[1]}

    first, second, third = run(tmp_path, cache, epochs=3, drift=drift).history
    assert "validation/before" not in first
    for before, now in ((first, second), (second, third)):
        assert now["validation/before"] == pytest.approx(before["validation/margin"])
        assert now["validation/now"] == pytest.approx(now["validation/margin"])
    alone = run(tmp_path, cache, epochs=2, drift=drift, validation=None).history
    assert not any(name.startswith("validation/") for row in alone for name in row)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train": replace(labelled(), prompts=[prompt_from_text("other")] * COUNT)}, "pairs"),
        ({"validation": [replace(p, response_a="other") for p in held_out()]}, "validation"),
        ({"template": "chat"}, "template"),
        ({"max_length": 64}, "max_length"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"checkpoint_steps": 2}, "checkpoint_steps"),
        ({"save": True}, "save"),
    ],
)
def test_ranks_prove_texts_and_options_without_a_config(
    change: dict[str, Any],
    named: str,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A script under torchrun hands in no config: what it hands in must be the same on all."""

    class Proven(Exception):
        pass

    def proof(**options: Any) -> Fingerprint:
        with pytest.raises(Proven) as proven:
            run(tmp_path, cache, **{"template": "plain", **options})
        return proven.value.args[0]

    def setup(self: SameRun, *args: Any, **options: Any) -> None:
        raise Proven(self.run)

    monkeypatch.setattr(SameRun, "setup", setup)
    assert differences(proof(), proof()) == []
    assert named in differences(proof(), proof(**change))


@pytest.mark.parametrize(("warmup", "said"), [(4, True), (10, True), (3, False)])
def test_a_run_that_never_reaches_its_learning_rate_says_so(
    warmup: int, said: bool, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
):
    """Four steps."""
    from rmexp.reward.module import RewardModule

    reached = []

    def watched(self: RewardModule, *args: Any) -> None:
        reached.append(self.optimizers().param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModule, "on_train_batch_start", watched)
        run(tmp_path, cache, learning_rate=1e-3, warmup_steps=warmup)
    err = capfd.readouterr().err
    assert (f"warmup_steps={warmup}: a run of 4 steps comes to" in err) == said
    assert (max(reached) < 0.999e-3) == said
