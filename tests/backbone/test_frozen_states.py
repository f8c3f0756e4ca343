from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.frozen import FrozenStates, remove_frozen_states
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.parallel import parallel_scores
from rmexp.backbone.sources import weights_fingerprint
from rmexp.backbone.text import TextTemplate, Tokens
from rmexp.preferences.pair import prompt_from_text

PROMPTS = ["one", "one", "two words " * 5, "x"]
RESPONSES = ["yes", "certainly not", "maybe", "a longer answer " * 3]
FAMILIES = [[0, 1], [2], [3]]


def make(
    path: Path, kind: str, cache: Path, room: int = 1 << 30
) -> tuple[Classifier, FrozenStates]:
    classifier = load_sequence_classifier(path, seed=2, peft=PeftOptions(kind=kind, last_k=1))
    return classifier, FrozenStates(classifier, weights_fingerprint(path), cache, room)


def tokens_of(classifier: Classifier) -> list[Tokens]:
    template = TextTemplate(
        classifier.tokenizer, name="auto", max_length=128, causal=classifier.causal
    )
    return template.encode([prompt_from_text(p) for p in PROMPTS], RESPONSES)


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["head_only", "last_k"])
@pytest.mark.parametrize("families", [None, FAMILIES], ids=["plain", "shared"])
def test_scores_and_gradients_equal_uncached(
    model: str, kind: str, families: list[list[int]] | None, request, tmp_path: Path
):
    classifier, frozen = make(request.getfixturevalue(model), kind, tmp_path)
    tokens = tokens_of(classifier)
    states = frozen.states(tokens)
    assert states is not None

    def run(cached: list[torch.Tensor] | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        classifier.model.zero_grad()
        rows = classifier.rows(tokens, families, 200, cached)
        scores = parallel_scores(classifier, rows, len(tokens))
        scores.square().sum().backward()
        trained = [p.grad for p in classifier.model.parameters() if p.requires_grad]
        return scores.detach(), [g for g in trained if g is not None]

    plain, plain_gradients = run(None)
    cached, gradients = run(states)
    assert cached == pytest.approx(plain, abs=1e-6)
    for a, b in zip(gradients, plain_gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_states_of_a_model_that_was_moved_are_kept_apart(tiny: Path, tmp_path: Path):
    _, stayed = make(tiny, "last_k", tmp_path)
    classifier, moved = make(tiny, "last_k", tmp_path)
    classifier.model.to("meta")
    assert moved._folder != stayed._folder


def test_frozen_layers_do_not_run_again(tiny: Path, tmp_path: Path):
    classifier, frozen = make(tiny, "last_k", tmp_path)
    tokens = tokens_of(classifier)
    states = frozen.states(tokens)
    ran = []
    first, second = classifier.trunk.layers
    first.self_attn.register_forward_hook(lambda *a: ran.append("frozen"))
    second.self_attn.register_forward_hook(lambda *a: ran.append("trained"))
    for rows in classifier.rows(tokens, None, 500, states):
        classifier.scores(rows)
    assert set(ran) == {"trained"}
    classifier.scores(classifier.rows(tokens, None, 500)[0])
    assert "frozen" in ran


def test_another_trial_finds_the_same_bits_whatever_it_asks_first(tiny: Path, tmp_path: Path):
    classifier, frozen = make(tiny, "last_k", tmp_path / "a")
    tokens = tokens_of(classifier)
    made = frozen.states(tokens)
    other = make(tiny, "last_k", tmp_path / "b")[1]
    other.states(tokens[2:])
    again = other.states(tokens)
    assert made is not None
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))

    found = make(tiny, "last_k", tmp_path / "a")[1]
    found.states(tokens[::-1])
    assert (found.computed, found.reused) == (0, 4)


def test_the_head_alone_keeps_one_token_a_text(tiny: Path, tiny_encoder: Path, tmp_path: Path):
    for path in (tiny, tiny_encoder):
        classifier, frozen = make(path, "head_only", tmp_path)
        states = frozen.states(tokens_of(classifier))
        assert states is not None
        assert {len(s) for s in states} == {1}


def test_other_weights_and_layers_are_other_states(tiny: Path, tiny_encoder: Path, tmp_path: Path):
    classifier, frozen = make(tiny, "last_k", tmp_path)
    frozen.states(tokens_of(classifier))
    head, other = make(tiny, "head_only", tmp_path)
    other.states(tokens_of(head))
    assert other.reused == 0
    assert len(list((tmp_path / "frozen").iterdir())) == 2


def rounded(classifier: Classifier) -> None:
    """As saving in bfloat16 does it."""
    with torch.no_grad():
        for weight in classifier.trunk.parameters():
            weight.copy_(weight.bfloat16().float())


def test_states_of_weights_that_were_rounded_are_kept_apart(tiny: Path, tmp_path: Path):
    """They come from the same weights: what was loaded decides, not where from."""
    classifier, frozen = make(tiny, "last_k", tmp_path)
    tokens = tokens_of(classifier)
    frozen.states(tokens)
    rounded(classifier)
    other = FrozenStates(classifier, weights_fingerprint(tiny), tmp_path, 1 << 30)
    assert other.states(tokens) is not None
    assert (other.computed, other.reused) == (4, 0)


@pytest.mark.parametrize("asked", [slice(None), slice(1, None)], ids=["some new", "all found"])
def test_found_states_that_are_another_models_are_not_used(
    asked: slice, tiny: Path, tmp_path: Path
):
    classifier, frozen = make(tiny, "last_k", tmp_path)
    tokens = tokens_of(classifier)
    frozen.states(tokens[1:])
    classifier, deceived = make(tiny, "last_k", tmp_path)
    rounded(classifier)  # behind the cache's back
    with pytest.warns(UserWarning, match="not this model's"):
        assert deceived.states(tokens[asked]) is None


def test_the_cache_is_bounded_and_removable(tiny: Path, tmp_path: Path):
    classifier, frozen = make(tiny, "last_k", tmp_path, room=1000)
    tokens = tokens_of(classifier)
    with pytest.warns(UserWarning, match="trainer.frozen_cache_gb allows"):
        assert frozen.states(tokens) is None
    assert (frozen.computed, frozen.left_out) == (0, 4)
    assert not (tmp_path / "frozen").exists()

    size = sum(len(t.ids) for t in tokens) * 64 * 4
    old = make(tiny, "head_only", tmp_path)[1]
    old.states(tokens)
    new = make(tiny, "last_k", tmp_path, room=size + 600)[1]
    assert new.states(tokens) is not None
    assert len(list((tmp_path / "frozen").iterdir())) == 1
    remove_frozen_states(tmp_path)
    assert not (tmp_path / "frozen").exists()


@pytest.mark.parametrize("when", ["while it is read", "after it was written"])
def test_what_another_trial_makes_room_with_is_computed_again(
    when: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    classifier, frozen = make(tiny, "last_k", tmp_path)
    tokens = tokens_of(classifier)
    expected = frozen.states(tokens)
    other = make(tiny, "last_k", tmp_path)[1]
    if when == "after it was written":
        remove_frozen_states(tmp_path)
    of, name = (np, "load") if when == "while it is read" else (other, "_write_shard")
    original = getattr(of, name)

    def vanishing(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(of, name, original)
        if when == "after it was written":
            original(*arguments, **options)
        remove_frozen_states(tmp_path)
        return original(*arguments, **options) if when == "while it is read" else None

    monkeypatch.setattr(of, name, vanishing)
    again = other.states(tokens)
    assert (other.computed, other.reused) == (4, 0)
    assert expected is not None
    assert again is not None
    # What was mapped stays readable where its file is gone.
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_a_model_whose_cached_scores_differ_is_not_cached(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    classifier, frozen = make(tiny, "last_k", tmp_path)
    monkeypatch.setattr(
        frozen, "_run_all", lambda all_: [torch.zeros(len(t.ids), 64) for t in all_]
    )
    with pytest.warns(UserWarning, match="not this model's"):
        assert frozen.states(tokens_of(classifier)) is None
    assert np.all([not p.name.startswith("shard") for p in tmp_path.rglob("*")])
