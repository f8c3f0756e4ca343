"""Prompt-shared rows: sequences that begin alike run their common beginning once.

A row is the longest common token prefix of some sequences, then each one's own tail. A tail sees
the prefix and itself, its positions go on from the prefix, and its score is read at its end: the
sums that plain rows compute, without the prompt's repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.batching import Rows, length_groups, stack_states
from rmexp.backbone.beginning import Beginning
from rmexp.backbone.text import Tokens, common_prefix

_PADDING = -1


@dataclass(frozen=True)
class MaskLayout:
    """Which masks a causal model's layers take.

    Attributes:
        kind: ``one`` mask for all layers, or one ``by_layer_type``.
        window: how many logical positions a sliding layer sees, itself included; None without.
    """

    kind: Literal["one", "by_layer_type"]
    window: int | None

    @classmethod
    def of(cls, config: Any) -> MaskLayout | None:
        """The layout of a model by its config, None where its layers are of other kinds."""
        text = config.get_text_config()
        window = getattr(text, "sliding_window", None)
        types = getattr(text, "layer_types", None)
        if types is None:
            return cls("one", window)
        if set(types) == {"full_attention"}:
            return cls("one", None)
        if set(types) <= {"full_attention", "sliding_attention"} and window:
            return cls("by_layer_type", window)
        return None


@dataclass(frozen=True)
class SharedRow:
    """Sequences that share their first ``prefix`` tokens, of which the first ``skip`` are left out.

    ``length`` counts the tokens that are run.
    """

    members: tuple[int, ...]
    prefix: int
    length: int
    skip: int = 0

    def prefix_of(self, tokens: Sequence[Tokens]) -> NDArray[np.int32]:
        """The ids of the shared prefix."""
        return tokens[self.members[0]].ids[: self.prefix]

    def after(self, skip: int) -> SharedRow:
        """The same without its first tokens."""
        return replace(self, length=self.length - skip, skip=skip)


def shared_rows(
    tokens: Sequence[Tokens],
    families: Sequence[Sequence[int]],
    *,
    token_budget: int,
    pad_id: int,
    layout: MaskLayout,
    states: Sequence[torch.Tensor] | None = None,
    beginning: Beginning | None = None,
) -> list[Rows]:
    """Rows of families of sequences, one family a row, rows of like length together.

    Short rows on purpose: a dense mask costs the square of the row.

    Args:
        tokens: the asked sequences.
        families: which of them go together, such as the two sides of a pair; each once.
        token_budget: tokens in one rectangle; a family that exceeds it by far is split.
        pad_id: fills the rows.
        layout: which masks the model takes.
        states: each asked sequence's frozen states ``[tokens, width]``.
        beginning: already run; rows that begin so leave it out and follow it.
    """
    rows = [row for family in families for row in split_family(tokens, family, token_budget)]
    begun, whole = [], rows
    if beginning is not None:
        begun = [r.after(len(beginning)) for r in rows if beginning.starts(r.prefix_of(tokens))]
        whole = [r for r in rows if not beginning.starts(r.prefix_of(tokens))]
    return [
        _build([some[int(i)] for i in group], tokens, pad_id, layout, states, given)
        for some, given in ((begun, beginning), (whole, None))
        # A beginning's keys and values stand before every row: they need room as tokens do.
        for group in length_groups([r.skip + r.length for r in some], token_budget)
    ]


def split_family(
    tokens: Sequence[Tokens], family: Sequence[int], token_budget: int
) -> list[SharedRow]:
    """A family as rows: as many members a row as the budget holds, at least two."""
    rows: list[SharedRow] = []
    members: list[int] = []
    for member in family:
        row = _row(tokens, [*members, member])
        if len(members) >= 2 and row.length > token_budget:
            rows.append(_row(tokens, members))
            members = [member]
        else:
            members.append(member)
    rows.append(_row(tokens, members))
    return rows


def _row(tokens: Sequence[Tokens], members: Sequence[int]) -> SharedRow:
    ids = [tokens[i].ids for i in members]
    prefix = common_prefix(ids)
    return SharedRow(tuple(members), prefix, prefix + sum(len(s) - prefix for s in ids))


def _build(
    rows: Sequence[SharedRow],
    tokens: Sequence[Tokens],
    pad_id: int,
    layout: MaskLayout,
    states: Sequence[torch.Tensor] | None,
    beginning: Beginning | None,
) -> Rows:
    width = max(r.length for r in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    position = np.zeros((len(rows), width), dtype=np.int64)
    branch = np.full((len(rows), width), _PADDING, dtype=np.int64)
    place: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        prefix = row.prefix
        at = prefix - row.skip
        ids[number, :at] = row.prefix_of(tokens)[row.skip :]
        position[number, :at] = np.arange(row.skip, prefix)
        branch[number, :at] = 0
        for own, member in enumerate(row.members, start=1):
            tail = tokens[member].ids[prefix:]
            here = slice(at, at + len(tail))
            ids[number, here] = tail
            position[number, here] = np.arange(prefix, prefix + len(tail))
            branch[number, here] = own
            at += len(tail)
            place.append((number, at - 1, member))
    row_of, column, sequence = np.array(place, dtype=np.int64).T
    hidden = None
    if states is not None:
        pieces = [
            [states[r.members[0]][r.skip : r.prefix]] + [states[m][r.prefix :] for m in r.members]
            for r in rows
        ]
        hidden = stack_states(pieces, width)
    return Rows(
        input_ids=torch.from_numpy(ids),
        row=torch.from_numpy(row_of.copy()),
        column=torch.from_numpy(column.copy()),
        sequence=sequence.copy(),
        tokens=sum(r.length for r in rows),
        attention_mask=_masks(
            torch.from_numpy(branch),
            torch.from_numpy(position),
            layout,
            0 if beginning is None else len(beginning),
        ),
        position_ids=torch.from_numpy(position),
        hidden=hidden,
        beginning=beginning,
    )


def _masks(
    branch: torch.Tensor, position: torch.Tensor, layout: MaskLayout, before: int
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Who sees whom, by logical position: bool ``[rows, 1, tokens, before + tokens]`` (query, key).

    The first ``before`` keys are a beginning that all tokens follow.
    """
    rows, width = branch.shape
    query = branch[:, :, None]
    key = torch.cat([torch.zeros(rows, before, dtype=torch.long), branch], dim=1)[:, None, :]
    places = torch.cat([torch.arange(before).expand(rows, before), position], dim=1)
    distance = position[:, :, None] - places[:, None, :]
    full = (query != _PADDING) & ((key == 0) | (key == query)) & (distance >= 0)
    # Padding must see something, or its softmax is NaN: it sees itself.
    full[:, :, before:] |= torch.eye(width, dtype=torch.bool)
    full = full[:, None]
    sliding = full if layout.window is None else full & (distance < layout.window)[:, None]
    if layout.kind == "one":
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}
