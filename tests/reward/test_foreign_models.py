"""Reward models that others have made: adapters, the hub, chat templates; and several devices."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rmexp.backbone.parallel import scoring_devices
from rmexp.errors import UserError
from rmexp.preferences.pair import Message
from rmexp.reward.model import RewardModel, load_reward_model

DIALOGUE = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?"))
PROMPTS = ["How do I boil an egg?", "How do I boil an egg?", DIALOGUE, "x " * 60]
RESPONSES = ["Boil it for nine minutes.", "No.", "Because.  ", "Fine, then. " * 9]
# As Llama 3 writes a dialogue: the text begins with BOS, so the tokenizer must add none.
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n\n{{ m['content'] | trim }}"
    "{{ eos_token }}{% endfor %}"
)


def adapter(base: Path, folder: Path, head: bool) -> Any:
    """A LoRA adapter as plain peft writes it, with or without the head."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    options = {"task_type": TaskType.SEQ_CLS} if head else {}
    made = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **options))
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return made.eval()


def plain_scores(model: Any, tokenizer: Any) -> list[float]:
    """One text at a time, with the tokenizer's own chat template."""
    scores = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        messages = [{"role": m.role, "content": m.content} for m in turns]
        text = tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": response}], tokenize=False
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            scores.append(float(model(input_ids=ids).logits[0, 0]))
    return scores


def test_a_foreign_adapter_with_its_head(tiny: Path, tmp_path: Path):
    made = adapter(tiny, tmp_path / "a", head=True)
    expected = plain_scores(made, AutoTokenizer.from_pretrained(tiny))
    assert load_reward_model(tmp_path / "a").score(PROMPTS, RESPONSES) == pytest.approx(
        expected, abs=1e-5
    )


def test_an_adapter_on_a_reward_model_keeps_its_head(tiny: Path, tmp_path: Path):
    trained = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    trained.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "base")
    made = adapter(tmp_path / "base", tmp_path / "a", head=False)
    expected = plain_scores(made, AutoTokenizer.from_pretrained(tiny))
    assert load_reward_model(tmp_path / "a").score(PROMPTS, RESPONSES) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("base", ["a language model", "a classifier that lost its head"])
def test_an_adapter_without_any_head_does_not_score_at_random(
    base: str, tiny: Path, tmp_path: Path
):
    found = tiny
    if base == "a classifier that lost its head":
        found = tmp_path / "base"
        trained = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
        weights = {n: w for n, w in trained.state_dict().items() if n != "score.weight"}
        trained.save_pretrained(found, state_dict=weights)
        AutoTokenizer.from_pretrained(tiny).save_pretrained(found)
    adapter(found, tmp_path / "a", head=False)
    with pytest.raises(UserError, match=r"holds score\.weight.*modules_to_save"):
        load_reward_model(tmp_path / "a")


def test_an_adapter_from_the_hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From the hub's own cache, as without a network."""
    from huggingface_hub import constants

    folder = tmp_path / "hub" / "models--owner--adapter"
    made = adapter(tiny, folder / "snapshots" / "0123", head=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    expected = plain_scores(made, AutoTokenizer.from_pretrained(tiny))
    found = load_reward_model("owner/adapter")
    assert found.score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="owner/elsewhere cannot be loaded"):
        load_reward_model("owner/elsewhere")


def test_a_model_of_the_skywork_kind(tiny: Path, tmp_path: Path):
    """A Llama with one label in bfloat16, no pad token, its text form in a chat template."""
    torch.manual_seed(1)
    trained = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    torch.nn.init.normal_(trained.score.weight, std=1.0)
    trained.to(torch.bfloat16).save_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = CHAT
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "m")
    same = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", dtype=torch.float32)
    expected = plain_scores(same.eval(), tokenizer)
    found = load_reward_model(tmp_path / "m")
    assert found.template.name == "chat"
    assert found.score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    (tokens,) = found.template.encode([DIALOGUE], ["No."])
    assert (tokens.ids == tokenizer.bos_token_id).sum() == 1


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> RewardModel:
    made = adapter(tiny, tmp_path / "a", head=True)
    made.merge_and_unload().save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "m")
    return load_reward_model(tmp_path / "m")


def test_several_devices_share_the_work_and_change_no_score(model: RewardModel):
    prompts = [f"Question {i}?" for i in range(24)]
    responses = ["word " * (i + 1) for i in range(24)]
    alone = model.score(prompts, responses)
    model.spread(["cpu", "cpu"])
    model.token_budget = 64
    second = model.replicas[0]
    assert second.inner is not model.classifier.inner
    scored: dict[int, int] = {}
    # The first waits for the second: only a shared queue lets both take part.
    begun = threading.Event()

    def watched(classifier: Any, wait: bool) -> Any:
        scores = classifier.scores

        def run(rows: Any) -> Any:
            assert begun.wait(30) if wait else begun.set() is None
            scored[id(classifier)] = scored.get(id(classifier), 0) + len(rows.sequence)
            return scores(rows)

        return run

    for classifier, wait in ((model.classifier, True), (second, False)):
        classifier.scores = watched(classifier, wait)  # type: ignore[method-assign]
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    assert model.score(prompts, responses) == pytest.approx(alone, abs=1e-5)
    assert len(scored) == 2
    assert sum(scored.values()) == 24
    assert told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_replica_computes_with_its_own_weights(model: RewardModel):
    before = model.score(PROMPTS, RESPONSES)
    model.spread(["cpu", "cpu"])
    for weight in model.classifier.model.parameters():
        torch.nn.init.zeros_(weight.data)
    model.classifier = model.replicas.pop()
    assert model.score(PROMPTS, RESPONSES) == pytest.approx(before, abs=1e-6)


def test_an_error_on_one_device_is_told(model: RewardModel):
    model.spread(["cpu", "cpu"])
    model.replicas[0].inner.score.weight.data.fill_(torch.nan)
    model.classifier.inner.score.weight.data.fill_(torch.nan)
    with pytest.raises(ArithmeticError, match="rows 0, 1"):
        model.score(PROMPTS, RESPONSES)


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch):
    assert scoring_devices("cpu") == ["cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scoring_devices("auto") == ["cpu"]
    with pytest.raises(UserError, match="'nothing' cannot be used"):
        scoring_devices("nothing")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert scoring_devices("auto") == scoring_devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
