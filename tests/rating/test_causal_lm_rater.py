from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rating_fakes import make_rules

from rmexp.backbone.sources import resolve_model
from rmexp.backbone.text import common_prefix
from rmexp.errors import UserError
from rmexp.preferences import Message, prompt_from_text
from rmexp.rating.causal_lm import CausalLMRater
from rmexp.rating.rater import Item
from rmexp.rating.yes_no import YesNoTemplate, psi_and_relevance

RULES = make_rules(5).rules
PROMPT = prompt_from_text("What is the capital of France?")
ITEMS = [
    Item(PROMPT, "Paris."),
    Item(prompt_from_text("Hi"), "Hello, how can I help you today?"),
    Item(PROMPT, "I do not know, and I would rather not say anything about it at all."),
    Item((Message("system", "Be kind."), Message("user", "Hi")), "Hello"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(resolve_model("tiny", tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def rater(folder: Path) -> CausalLMRater:
    return CausalLMRater(folder, max_length=600, token_budget=60, device="cpu")


def one_by_one(rater: CausalLMRater, items: list[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Each question in a forward pass of its own, without cache, mask or positions."""
    logits = np.empty((len(items), len(RULES), 3), np.float32)
    for i, item in enumerate(items):
        question = rater._template.question(item.prompt, item.response)
        for j, rule in enumerate(RULES):
            ids = question.prompt + question.response + rater._template.branch(rule)
            with torch.inference_mode():
                last = rater._model(torch.tensor([ids])).logits[0, -1]
            logits[i, j] = last[rater._template.answer_ids]
    return psi_and_relevance(logits)


@pytest.mark.parametrize("budget", [1, 200])
def test_scores_equal_those_of_one_forward_per_rule_and_response(folder: Path, budget: int) -> None:
    rater = CausalLMRater(folder, max_length=600, token_budget=budget, device="cpu")
    rated = rater.rate(ITEMS, RULES)
    psi, relevance = one_by_one(rater, ITEMS)
    assert psi.std() > 1e-3, "the model must tell rules apart for this to mean anything"
    np.testing.assert_allclose(rated.psi, psi, atol=1e-5)
    np.testing.assert_allclose(rated.relevance, relevance, atol=1e-5)


def test_only_what_is_wanted_is_computed(rater: CausalLMRater) -> None:
    wanted = np.zeros((4, 5), np.bool_)
    wanted[0, 1] = wanted[2, 4] = wanted[2, 0] = True
    rated = rater.rate(ITEMS, RULES, wanted)
    np.testing.assert_array_equal(np.isnan(rated.psi), ~wanted)
    whole = rater.rate(ITEMS, RULES)
    np.testing.assert_allclose(rated.psi[wanted], whole.psi[wanted], atol=1e-5)


def test_the_prompt_is_computed_once_for_its_responses_and_rules(
    rater: CausalLMRater, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = type(rater._model).forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].shape[1])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(rater._model), "forward", counting)
    items = [ITEMS[0], ITEMS[2]]
    rater.rate(items, RULES)
    questions = [rater._template.question(item.prompt, item.response) for item in items]
    branches = [rater._template.branch(rule) for rule in RULES]
    shared = common_prefix(branches)
    expected = (
        len(questions[0].prompt)
        + sum(len(q.response) + shared for q in questions)
        + len(items) * sum(len(branch) - shared for branch in branches)
    )
    assert sum(seen) == expected


def test_a_long_prompt_loses_its_beginning_and_a_long_response_its_end(folder: Path) -> None:
    from rmexp.backbone.load import load_tokenizer

    tokenizer = load_tokenizer(folder, 300)
    bare = len(YesNoTemplate(tokenizer, 1000).question(prompt_from_text(""), "").prompt) + len(
        YesNoTemplate(tokenizer, 1000).question(prompt_from_text(""), "").response
    )
    template = YesNoTemplate(tokenizer, bare + 20)
    question = template.question(prompt_from_text("x" * 50 + "end of it"), "0123456789")
    assert tokenizer.decode(question.prompt).endswith("xend of it")
    assert tokenizer.decode(question.response).endswith("0123456789")
    assert question.cut == 49
    long = template.question(prompt_from_text("abcdefgh"), "r" * 12 + "s" * 15)
    assert tokenizer.decode(long.response).endswith("r" * 12 + "s" * 3)
    assert tokenizer.decode(long.prompt).endswith("\ndefgh"), "a quarter of the room is kept"
    assert long.cut == 3 + 12


def test_what_is_cut_is_counted(folder: Path) -> None:
    rater = CausalLMRater(folder, max_length=600, device="cpu")
    rater.rate(ITEMS[:2], RULES[:1])
    assert str(rater.report) == "2 responses asked about, none cut"
    rater.rate([Item(PROMPT, "long " * 200), ITEMS[2]], RULES[:1])
    assert (rater.report.responses, rater.report.cut) == (4, 1)
    assert f"1 cut by {rater.report.tokens} tokens" in str(rater.report)


def test_the_date_does_not_move_questions(folder: Path) -> None:
    from rmexp.backbone.load import load_tokenizer

    tokenizer = load_tokenizer(folder, 300)
    tokenizer.chat_template = (
        "{{ strftime_now( \"%d %b %Y\" ) }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    question = YesNoTemplate(tokenizer, 1000).question(PROMPT, "Paris.")
    assert "26 Jul 2024" in tokenizer.decode(question.prompt)


def test_probabilities_become_psi_and_relevance() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        psi, relevance = psi_and_relevance(np.log(probabilities))
    np.testing.assert_allclose(psi, [0.25, 0, 1], atol=1e-7)
    np.testing.assert_allclose(relevance, [0.8, 0.2, 1], atol=1e-7)


def test_models_that_cannot_answer_are_refused(folder: Path, tmp_path: Path) -> None:
    from rmexp.backbone.load import load_tokenizer

    with pytest.raises(UserError, match=r"rater\.model"):
        CausalLMRater(tmp_path)
    tokenizer = load_tokenizer(folder, 300)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        YesNoTemplate(tokenizer, 100)


def test_weights_that_no_fingerprint_holds_are_refused(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "bin"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, own / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"rater\.model: .* has no \.safetensors file"):
        CausalLMRater(own, device="cpu")


def test_other_lengths_and_types_are_other_raters(folder: Path, rater: CausalLMRater) -> None:
    longer = CausalLMRater(folder, max_length=700, device="cpu")
    same = CausalLMRater(folder, max_length=600, token_budget=7, device="cpu")
    low = CausalLMRater(folder, max_length=600, dtype="bfloat16", device="cpu")
    assert rater.fingerprint.hexdigest == same.fingerprint.hexdigest
    assert len({r.fingerprint.hexdigest for r in (rater, longer, low)}) == 3
    assert np.abs(low.rate(ITEMS, RULES).psi - rater.rate(ITEMS, RULES).psi).max() < 0.05
