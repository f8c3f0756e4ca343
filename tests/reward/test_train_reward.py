from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from rmexp.reward.module import PairOutcomes, RewardModule
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


def test_outcomes_on_a_device_join_those_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch):
    """A device that this machine has not: meta, read as zeros."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape))
    outcomes = PairOutcomes([np.arange(2)], [torch.ones(2, 3)])
    outcomes.add(np.array([2, -1]), *torch.ones(3, 2, device="meta"))
    index, values = outcomes.gather(SimpleNamespace(world_size=1))
    assert index.tolist() == [0, 1, 2]
    assert values.tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]


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


@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_a_stopped_run_goes_on_to_the_same_bits(
    stop_at: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    options: dict[str, Any] = {
        "peft": PeftOptions(kind="lora", dropout=0.2),
        "epochs": 3,
        "checkpoint_steps": 2,
        "drift": lambda earlier, later: {"moved": float(np.abs(later - earlier).max())},
    }
    whole = run(tmp_path / "whole", cache, **options)
    assert whole.history[-1]["validation/moved"] > 0
    assert whole.history[0]["train/tokens_saved"] > 0.2
    original = RewardModule.training_step

    def stopping(self: RewardModule, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == stop_at:
            raise KeyError("stopped")
        return original(self, batch, batch_index)

    monkeypatch.setattr(RewardModule, "training_step", stopping)
    with pytest.raises(KeyError):
        run(tmp_path / "cut", cache, **options)
    monkeypatch.setattr(RewardModule, "training_step", original)
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


def cut(directory: Path, cache: Path, *, at: int, **options: Any) -> None:
    """A run that stops by an error at a step, and leaves its checkpoint."""
    from rmexp.reward.module import RewardModule

    original = RewardModule.training_step

    def stopping(self: RewardModule, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == at:
            raise KeyError("stopped")
        return original(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModule, "training_step", stopping)
        with pytest.raises(KeyError):
            run(directory, cache, **options)


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


def test_a_checkpoint_holds_only_what_is_trained(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from rmexp.reward import train as module

    monkeypatch.setattr(module, "remove_checkpoints", lambda folder: None)
    run(tmp_path, cache, peft=PeftOptions(kind="lora"), checkpoint_steps=2)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all("lora_" in n or "score" in n for n in saved["state_dict"])
    assert saved["state_dict"]
