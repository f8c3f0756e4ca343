from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from shared_prompts import CONFIGS, SIZES, families, sequence
from small_models import classifier_of
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    Qwen3Config,
)

from rmexp.backbone.attention import use_short_rows
from rmexp.backbone.beginning import common_beginning
from rmexp.backbone.packing import MaskLayout, shared_rows
from rmexp.backbone.parallel import parallel_scores
from rmexp.backbone.text import Tokens, common_prefix


@pytest.mark.parametrize("name", CONFIGS)
def test_shared_rows_give_the_scores_and_gradients_of_plain_ones(name: str):
    classifier = classifier_of(CONFIGS[name])
    tokens, groups = families()
    assert classifier.layout is not None

    def run(families: Any, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
        classifier.model.zero_grad()
        rows = classifier.rows(tokens, families, budget)
        scores = parallel_scores(classifier, rows, len(tokens))
        (scores * torch.linspace(-1, 1, len(tokens))).sum().backward()
        gradients = [p.grad.flatten() for p in classifier.model.parameters() if p.grad is not None]
        return scores.detach(), torch.cat(gradients)

    alone = torch.cat(
        [classifier.model(input_ids=torch.tensor(t.ids[None].astype(int))).logits for t in tokens]
    )[:, 0].detach()
    plain, plain_gradient = run(None, 1)
    assert plain == pytest.approx(alone, abs=1e-5)
    for budget in (16, 64, 1000):
        shared, gradient = run(groups, budget)
        assert shared == pytest.approx(alone, abs=1e-5)
        assert torch.allclose(gradient, plain_gradient, atol=1e-4, rtol=1e-4)


def test_sharing_runs_fewer_tokens():
    tokens, groups = families()
    classifier = classifier_of(CONFIGS["llama"])
    shared = sum(r.tokens for r in classifier.rows(tokens, groups, 1000))
    assert sum(len(t.ids) for t in tokens) - shared == 12 + 3 + 2 * 20


def test_a_model_that_cannot_share_runs_plain(monkeypatch: pytest.MonkeyPatch):
    """Positions that a model ignores would give other scores: trying tells."""
    classifier = classifier_of(CONFIGS["llama"])
    original = type(classifier.trunk).forward

    def deaf(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(classifier.trunk), "forward", deaf)
    assert classifier.layout is None
    tokens, groups = families()
    assert all(r.position_ids is None for r in classifier.rows(tokens, groups, 100))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_frequencies_that_follow_the_length_follow_each_texts_own(kind: str, gradients: bool):
    """Beyond 16 tokens, which some of the texts have and some have not."""
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
        rope["original_max_position_embeddings"] = 16
    longest = 64 if kind == "longrope" else 16
    config = LlamaConfig(**SIZES, max_position_embeddings=longest, rope_parameters=rope)
    classifier = classifier_of(config)
    untouched = copy.deepcopy(classifier.model)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for tokens, groups in (families(), begun_families()):
            alone = [
                copy.deepcopy(untouched)(input_ids=torch.tensor(t.ids[None].astype(int))).logits
                for t in tokens
            ]
            expected = torch.cat(alone)[:, 0].detach()
            for families_of, budget in ((None, 1000), (groups, 16), (groups, 1000)):
                with torch.set_grad_enabled(gradients):
                    rows = classifier.rows(
                        tokens, families_of, budget, share_beginning=not gradients
                    )
                    found = parallel_scores(classifier, rows, len(tokens))
                assert found.detach() == pytest.approx(expected, abs=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "config",
    [
        Gemma3TextConfig(**SIZES, use_bidirectional_attention=True),
        LlamaConfig(**SIZES, is_causal=False),
    ],
    ids=["gemma3", "llama"],
)
def test_a_decoder_that_attends_both_ways_sees_no_padding(config: Any):
    classifier = classifier_of(config)
    use_short_rows(classifier.model)
    tokens, groups = families()
    alone = parallel_scores(classifier, classifier.rows(tokens, None, 1), len(tokens)).detach()
    assert alone.std() > 0.1
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            rows = classifier.rows(tokens, groups, 1000)
            found = parallel_scores(classifier, rows, len(tokens))
        assert found.detach() == pytest.approx(alone, abs=1e-5)


def test_layers_of_other_kinds_do_not_share():
    config = Qwen3Config(**SIZES)
    config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    assert MaskLayout.of(config) is None


def begun_families() -> tuple[list[Tokens], list[list[int]]]:
    """Five families behind one beginning of ten tokens, and one whose beginning was cut off."""
    draw = np.random.default_rng(2).integers
    begin = draw(1, 90, 10)
    tokens, groups = [], []
    for prefix, tails in ((12, (5, 9)), (3, (1, 1)), (20, (4, 2, 7)), (1, (6, 3)), (8, (2,))):
        own = np.concatenate([begin, draw(1, 90, prefix)])
        groups.append(list(range(len(tokens), len(tokens) + len(tails))))
        tokens += [sequence(np.concatenate([own, draw(1, 90, n)])) for n in tails]
    groups.append([len(tokens), len(tokens) + 1])
    return [*tokens, sequence(begin[2:]), sequence(draw(1, 90, 7))], groups


@pytest.mark.parametrize("name", CONFIGS)
def test_a_beginning_is_run_once_and_changes_no_score(name: str):
    classifier = classifier_of(CONFIGS[name])
    tokens, groups = begun_families()
    with torch.inference_mode():
        plain = classifier.rows(tokens, None, 1)
        expected = parallel_scores(classifier, plain, len(tokens))
        apart = classifier.rows(tokens, groups, 64)
        for budget in (16, 64, 1000):
            rows = classifier.rows(tokens, groups, budget, share_beginning=True)
            assert {r.beginning is None for r in rows} == {True, False}
            found = parallel_scores(classifier, rows, len(tokens))
            assert found == pytest.approx(expected, abs=1e-5)
    # The family of three is two rows where it exceeds the budget, so the saving is of rows.
    whole = classifier.rows(tokens, groups, 1000, share_beginning=True)
    assert sum(r.tokens for r in apart) - sum(r.tokens for r in whole) == 5 * 10


def test_a_beginning_follows_the_weights():
    """It is run anew for each set of rows: a trained model must not see what it saw before."""
    classifier = classifier_of(CONFIGS["llama"])
    tokens, groups = begun_families()
    with torch.inference_mode():
        classifier.rows(tokens, groups, 1000, share_beginning=True)
    with torch.no_grad():
        for parameter in classifier.trunk.parameters():
            parameter.mul_(1.3)
    with torch.inference_mode():
        expected = parallel_scores(classifier, classifier.rows(tokens, None, 1), len(tokens))
        rows = classifier.rows(tokens, groups, 1000, share_beginning=True)
        found = parallel_scores(classifier, rows, len(tokens))
    assert found == pytest.approx(expected, abs=1e-5)


def test_few_or_unlike_families_have_no_common_beginning():
    tokens, groups = begun_families()
    found = common_beginning(tokens, groups)
    assert found is not None
    assert found.tolist() == tokens[0].ids[:10].tolist()
    assert common_beginning(tokens, groups[:3]) is None
    assert common_beginning(*families()) is None


def test_a_model_that_ignores_its_cache_runs_the_beginning_with_each(
    monkeypatch: pytest.MonkeyPatch,
):
    classifier = classifier_of(CONFIGS["llama"])
    original = type(classifier.trunk).forward

    def deaf(self: Any, *args: Any, cache: Any = None, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(classifier.trunk), "forward", deaf)
    tokens, groups = begun_families()
    with torch.inference_mode():
        rows = classifier.rows(tokens, groups, 1000, share_beginning=True)
        found = parallel_scores(classifier, rows, len(tokens))
        expected = parallel_scores(classifier, classifier.rows(tokens, None, 1), len(tokens))
    assert all(r.beginning is None for r in rows)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_row_is_prefix_then_tails_with_positions_going_on():
    tokens = [sequence(np.array([5, 6, 7, 8])), sequence(np.array([5, 6, 9]))]
    (rows,) = shared_rows(
        tokens, [[0, 1]], token_budget=100, pad_id=0, layout=MaskLayout("one", None)
    )
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert rows.position_ids is not None
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert rows.column.tolist() == [3, 4]
    assert isinstance(rows.attention_mask, torch.Tensor)
    assert rows.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_the_prefix_leaves_each_a_token_of_its_own():
    same = np.array([1, 2, 3])
    assert common_prefix([same, same]) == 2
    assert common_prefix([np.array([1]), np.array([2, 3])]) == 0
    assert common_prefix([(1,), (1,)]) == 0
