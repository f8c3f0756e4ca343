"""Groups of sequences of like length, and the rectangles of tokens they are run as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.beginning import Beginning
from rmexp.backbone.text import Tokens


@runtime_checkable
class LateMasks(Protocol):
    """Masks that are made on the device where they are needed."""

    def to(self, device: torch.device | str) -> LateMasks:
        """What they are made from, on a device."""

    def masks(self) -> Any:
        """The masks, as the model takes them."""


@dataclass(frozen=True)
class Rows:
    """A rectangle of tokens and the places where its sequences end.

    Attributes:
        input_ids: int64 ``[rows, tokens]``, padded on the right.
        row: int64 ``[sequences]``, the row of each sequence.
        column: int64 ``[sequences]``, the place of its last token.
        sequence: which of the asked sequences each is, int64 ``[sequences]``.
        tokens: real tokens, without padding; those of the whole texts where only their states at
            one token are left to run.
        attention_mask: None where nothing must be masked; int64 ``[rows, tokens]``; or, with
            several sequences a row, bool ``[rows, 1, tokens, tokens]``, or a dict of those by
            layer type; or what is made on the device.
        token_type_ids: int64 ``[rows, tokens]``, or None.
        position_ids: int64 ``[rows, tokens]``, or None for 0, 1, 2, ...
        hidden: what the frozen layers give, ``[rows, tokens, width]``, or None to run them.
        beginning: what all rows follow and leave out, or None.
    """

    input_ids: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    sequence: NDArray[np.int64]
    tokens: int
    attention_mask: torch.Tensor | dict[str, torch.Tensor] | LateMasks | None = None
    token_type_ids: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    beginning: Beginning | None = None

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on a device."""

        def move(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, dict):
                return {name: move(v) for name, v in value.items()}
            return value.to(device) if isinstance(value, Beginning | LateMasks) else value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def first_token(self) -> Rows:
        """The first row's first token as a rectangle, about the least that can be run."""

        def cut(value: torch.Tensor | None) -> torch.Tensor | None:
            return None if value is None else value[:1, :1]

        return Rows(
            input_ids=self.input_ids[:1, :1],
            row=torch.zeros_like(self.row[:1]),
            column=torch.zeros_like(self.column[:1]),
            sequence=self.sequence[:1],
            tokens=1,
            token_type_ids=cut(self.token_type_ids),
            hidden=cut(self.hidden),
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


def pad_rows(
    tokens: Sequence[Tokens],
    group: NDArray[np.int64],
    pad_id: int,
    causal: bool,
    states: Sequence[torch.Tensor] | None = None,
) -> Rows:
    """One sequence a row, padded on the right to the longest.

    A causal model needs no mask then: no real token can look at the padding behind it. So the
    fast causal kernel serves, and pooling reads the last real token by position, never by
    comparing with the pad id (transformers #35352).

    Args:
        tokens: the asked sequences.
        group: which of them.
        pad_id: fills the rows.
        causal: whether tokens see only what stands before them.
        states: each asked sequence's frozen states ``[tokens, width]``.
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
        row=torch.arange(len(chosen)),
        column=torch.from_numpy(lengths - 1),
        sequence=np.asarray(group, dtype=np.int64),
        tokens=int(lengths.sum()),
        attention_mask=mask,
        token_type_ids=torch.from_numpy(types) if chosen[0].has_types else None,
        hidden=None if states is None else stack_states([[states[int(i)]] for i in group], width),
    )


def stack_states(pieces: Sequence[Sequence[torch.Tensor]], width: int) -> torch.Tensor:
    """Frozen states of rows from their pieces, filled with zeros: ``[rows, width, dim]``."""
    first = pieces[0][0]
    hidden = torch.zeros(len(pieces), width, first.shape[-1], dtype=first.dtype)
    for row, parts in enumerate(pieces):
        at = 0
        for part in parts:
            hidden[row, at : at + len(part)] = part
            at += len(part)
    return hidden


def in_asked_order(
    rows: Sequence[Rows], scores: Sequence[torch.Tensor], count: int
) -> torch.Tensor:
    """Scores of each rectangle, in its own order, as scores of the asked sequences: ``[count]``."""
    back = np.empty(count, dtype=np.int64)
    back[np.concatenate([r.sequence for r in rows])] = np.arange(count)
    return torch.cat(list(scores))[torch.from_numpy(back).to(scores[0].device)]
