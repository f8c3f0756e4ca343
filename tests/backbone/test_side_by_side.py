from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.parallel import parallel_scores
from rmexp.backbone.text import TextTemplate
from rmexp.preferences.pair import prompt_from_text


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(classifier: Classifier) -> tuple[torch.Tensor, list[torch.Tensor]]:
    template = TextTemplate(
        classifier.tokenizer, name="auto", max_length=128, causal=classifier.causal
    )
    prompts = [prompt_from_text("word " * (i % 5)) for i in range(12)]
    tokens = template.encode(prompts, [f"answer {i}" * (i % 3 + 1) for i in range(12)])
    rows = classifier.rows(tokens, [[i, i + 1] for i in range(0, 12, 2)], 90)
    assert len(rows) > 4
    classifier.model.zero_grad()
    scores = parallel_scores(classifier, rows, len(tokens))
    (scores * torch.linspace(-1, 1, 12)).sum().backward()
    gradients = [p.grad for p in classifier.model.parameters() if p.grad is not None]
    return scores.detach(), gradients


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["full", "lora", "last_k"])
def test_side_by_side_is_one_after_the_other(
    model: str, kind: str, request: pytest.FixtureRequest, threads: Any
):
    path = request.getfixturevalue(model)
    classifier = load_sequence_classifier(path, seed=1, peft=PeftOptions(kind=kind, last_k=1))
    threads(1)
    expected, wanted = run(classifier)
    wanted = [g.clone() for g in wanted]
    threads(3)
    found, given = run(classifier)
    given = [g.clone() for g in given]
    assert found == pytest.approx(expected, abs=1e-6)
    for a, b in zip(wanted, given, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    again, repeated = run(classifier)
    assert torch.equal(found, again)
    assert all(torch.equal(a, b) for a, b in zip(given, repeated, strict=True))


def test_dropout_is_drawn_in_the_rectangles_order(tiny: Path, threads: Any):
    options = PeftOptions(kind="lora", dropout=0.3)
    classifier = load_sequence_classifier(tiny, seed=1, peft=options)
    for name, weight in classifier.model.named_parameters():
        if "lora_B" in name:  # adapters start at zero, where dropout changes nothing
            torch.nn.init.normal_(weight, std=0.1)
    classifier.model.train()
    found = []
    for count in (1, 3, 3):
        threads(count)
        torch.manual_seed(0)
        found.append(run(classifier)[0])
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert torch.equal(found[1], found[2])


def test_it_uses_threads_and_leaves_the_callers_count(
    tiny: Path, threads: Any, monkeypatch: pytest.MonkeyPatch
):
    classifier = load_sequence_classifier(tiny, seed=1)
    names, counts = set(), set()
    original = Classifier.scores

    def watched(self: Classifier, rows: Any) -> torch.Tensor:
        names.add(threading.current_thread().name)
        counts.add(torch.get_num_threads())
        return original(self, rows)

    monkeypatch.setattr(Classifier, "scores", watched)
    threads(2)
    run(classifier)
    assert all(name.startswith("rmexp-rows") for name in names)
    assert counts == {1}
    assert torch.get_num_threads() == 2


def test_without_gradients_nothing_is_kept(tiny: Path, threads: Any):
    classifier = load_sequence_classifier(tiny, seed=1)
    threads(2)
    template = TextTemplate(classifier.tokenizer, name="chat", max_length=64, causal=True)
    tokens = template.encode([prompt_from_text(f"p{i}") for i in range(4)], ["a"] * 4)
    with torch.no_grad():
        scores = parallel_scores(classifier, classifier.rows(tokens, None, 16), 4)
    assert not scores.requires_grad


def test_a_fault_in_a_rectangle_is_told(tiny: Path, threads: Any, monkeypatch: pytest.MonkeyPatch):
    classifier = load_sequence_classifier(tiny, seed=1)
    threads(2)

    def broken(self: Classifier, rows: Any) -> torch.Tensor:
        raise KeyError("broken")

    monkeypatch.setattr(Classifier, "scores", broken)
    with pytest.raises(KeyError, match="broken"):
        run(classifier)
