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
class LaidOut:
    """The tokens of a family in a row.

    Attributes:
        ids: ``[tokens]``.
        position: ``[tokens]``, the place of each in its own sequence.
        branch: ``[tokens]``, 0 for what all share, else whose tail it is.
        ends: ``[members]``, where each member's last token stands.
    """

    ids: NDArray[np.int32]
    position: NDArray[np.int64]
    branch: NDArray[np.int64]
    ends: NDArray[np.int64]


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

    def laid_out(self, tokens: Sequence[Tokens]) -> LaidOut:
        """Its tokens, one behind the other: what is shared, then each member's own."""
        prefix = self.prefix
        parts = [self.prefix_of(tokens)[self.skip :]]
        parts += [tokens[member].ids[prefix:] for member in self.members]
        starts = [self.skip] + [prefix] * len(self.members)
        lengths = [len(part) for part in parts]
        return LaidOut(
            ids=np.concatenate(parts),
            position=np.concatenate(
                [np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]
            ),
            branch=np.repeat(np.arange(len(parts)), lengths),
            ends=np.cumsum(lengths)[1:] - 1,
        )

    def states_of(self, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The frozen states of the same tokens, in pieces."""
        shared = states[self.members[0]][self.skip : self.prefix]
        return [shared, *(states[member][self.prefix :] for member in self.members)]

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
    ends = []
    for number, row in enumerate(rows):
        own = row.laid_out(tokens)
        here = number, slice(len(own.ids))
        ids[here], position[here], branch[here] = own.ids, own.position, own.branch
        ends.append(own.ends)
    return Rows(
        input_ids=torch.from_numpy(ids),
        row=torch.arange(len(rows)).repeat_interleave(torch.tensor([len(e) for e in ends])),
        column=torch.from_numpy(np.concatenate(ends)),
        sequence=np.array([member for row in rows for member in row.members], dtype=np.int64),
        tokens=sum(r.length for r in rows),
        attention_mask=_masks(
            torch.from_numpy(branch),
            torch.from_numpy(position),
            layout,
            0 if beginning is None else len(beginning),
        ),
        position_ids=torch.from_numpy(position),
        hidden=None if states is None else stack_states([r.states_of(states) for r in rows], width),
        beginning=beginning,
    )


def follows(query: Any, key: Any, distance: Any) -> Any:
    """Who sees whom within a family: what all share, and what is one's own, if not ahead.

    Args:
        query, key: branches of the token that looks and of the one that is looked at.
        distance: between their positions.
    """
    return ((key == 0) | (key == query)) & (distance >= 0)


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
    full = (query != _PADDING) & follows(query, key, distance)
    # Padding must see something, or its softmax is NaN: it sees itself.
    full[:, :, before:] |= torch.eye(width, dtype=torch.bool)
    full = full[:, None]
    sliding = full if layout.window is None else full & (distance < layout.window)[:, None]
    if layout.kind == "one":
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}
