from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.backbone.batching import in_asked_order, length_groups, pad_rows
from rmexp.backbone.text import Tokens


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
@settings(deadline=None, max_examples=50)
def test_groups_cover_all_once_within_the_budget(lengths: list[int], budget: int):
    groups = length_groups(lengths, budget)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or longest * len(group) <= budget


def sequence(length: int, second: int | None = None) -> Tokens:
    ids = np.arange(1, length + 1, dtype=np.int32)
    return Tokens(ids, length if second is None else second, second is not None, 0, 0)


def test_causal_rows_are_padded_right_and_unmasked():
    rows = pad_rows([sequence(3), sequence(5)], np.array([1, 0]), pad_id=9, causal=True)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 9, 9]]
    assert rows.attention_mask is None
    assert rows.column.tolist() == [4, 2]
    assert rows.tokens == 8


def test_encoder_rows_carry_mask_and_types():
    rows = pad_rows([sequence(3, 1), sequence(4, 2)], np.array([0, 1]), pad_id=0, causal=False)
    assert rows.attention_mask is not None
    assert rows.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert rows.token_type_ids is not None
    assert rows.token_type_ids.tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]


def test_scores_come_back_in_the_asked_order():
    tokens = [sequence(n) for n in (2, 7, 4, 7)]
    rows = [pad_rows(tokens, g, 0, True) for g in length_groups([2, 7, 4, 7], 8)]
    scores = in_asked_order(rows, [r.column.float() + 1 for r in rows], 4)
    assert torch.equal(scores, torch.tensor([2.0, 7.0, 4.0, 7.0]))
