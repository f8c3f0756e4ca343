"""Groups of sequences of like length, and the rectangles of tokens they are run as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.text import Tokens


@dataclass(frozen=True)
class Rows:
    """A rectangle of tokens and the places where its sequences end.

    Attributes:
        input_ids: int64 ``[rows, tokens]``, padded on the right.
        attention_mask: int64 ``[rows, tokens]``, or None where nothing must be masked.
        token_type_ids: int64 ``[rows, tokens]``, or None.
        row: int64 ``[sequences]``, the row of each sequence.
        column: int64 ``[sequences]``, the place of its last token.
        sequence: int64 ``[sequences]``, which of the asked sequences each is.
        tokens: real tokens, without padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    row: torch.Tensor
    column: torch.Tensor
    sequence: NDArray[np.int64]
    tokens: int

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on a device."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Rows(
            self.input_ids.to(device, non_blocking=True),
            move(self.attention_mask),
            move(self.token_type_ids),
            self.row.to(device, non_blocking=True),
            self.column.to(device, non_blocking=True),
            self.sequence,
            self.tokens,
        )


def length_groups(lengths: Sequence[int], token_budget: int) -> list[NDArray[np.int64]]:
    """Split sequences into groups of like length, longest first.

    A group's rectangle (longest length times count) stays within the budget, unless a single
    sequence is longer than it. Equal lengths keep their order, so the groups are a pure function
    of the lengths.

    >>> [group.tolist() for group in length_groups([3, 10, 9, 2], token_budget=20)]
    [[1, 2], [0, 3]]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    groups: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        count = max(1, token_budget // max(1, int(sizes[order[start]])))
        groups.append(order[start : start + count])
        start += count
    return groups


def pad_rows(tokens: Sequence[Tokens], group: NDArray[np.int64], pad_id: int, causal: bool) -> Rows:
    """One sequence a row, padded on the right to the longest.

    A causal model needs no mask then: no real token can look at the padding behind it. So the
    fast causal kernel serves, and pooling reads the last real token by position, never by
    comparing with the pad id (transformers #35352).
    """
    chosen = [tokens[int(i)] for i in group]
    lengths = np.array([len(t.ids) for t in chosen], dtype=np.int64)
    width = int(lengths.max())
    ids = np.full((len(chosen), width), pad_id, dtype=np.int64)
    types = np.zeros_like(ids)
    for row, item in enumerate(chosen):
        ids[row, : len(item.ids)] = item.ids
        types[row, item.second_segment : len(item.ids)] = 1
    mask = None
    if not causal and int(lengths.min()) < width:
        mask = torch.from_numpy((np.arange(width)[None, :] < lengths[:, None]).astype(np.int64))
    return Rows(
        input_ids=torch.from_numpy(ids),
        attention_mask=mask,
        token_type_ids=torch.from_numpy(types) if chosen[0].has_types else None,
        row=torch.arange(len(chosen)),
        column=torch.from_numpy(lengths - 1),
        sequence=np.asarray(group, dtype=np.int64),
        tokens=int(lengths.sum()),
    )


def score_in_groups(
    rows: Sequence[Rows], score: Callable[[Rows], torch.Tensor], count: int
) -> torch.Tensor:
    """Run each rectangle and put the scores back into the asked order: float32 ``[count]``."""
    scores = torch.cat([score(r) for r in rows])
    back = np.empty(count, dtype=np.int64)
    back[np.concatenate([r.sequence for r in rows])] = np.arange(count)
    return scores[torch.from_numpy(back).to(scores.device)]
