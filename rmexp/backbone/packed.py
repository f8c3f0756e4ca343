"""Packed rows: families of sequences one behind the other, attended to by FlexAttention.

A block mask says which blocks of tokens see which, so that a row of many families costs what its
families cost: no padding between them, and no mask whose size is the square of the row. Scores are
those of :func:`~rmexp.backbone.packing.shared_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from rmexp.backbone.batching import Rows, stack_states
from rmexp.backbone.packing import MaskLayout, SharedRow, follows, split_family
from rmexp.backbone.text import Tokens

# FlexAttention masks in blocks of so many tokens.
_BLOCK = 128
_PADDING = -1


@dataclass(frozen=True)
class PackedPlaces:
    """Who each token of a packed row is: what its masks are made from, on any device.

    Attributes:
        family: int64 ``[tokens]``; -1 for padding.
        branch: int64 ``[tokens]``; 0 for what a family's sequences share, else which of them.
        position: int64 ``[tokens]``, the place in the token's own sequence.
        layout: which masks the model takes.
    """

    family: torch.Tensor
    branch: torch.Tensor
    position: torch.Tensor
    layout: MaskLayout

    def to(self, device: torch.device | str) -> PackedPlaces:
        """The same on a device."""
        return replace(
            self,
            family=self.family.to(device, non_blocking=True),
            branch=self.branch.to(device, non_blocking=True),
            position=self.position.to(device, non_blocking=True),
        )

    def masks(self) -> Any:
        """A ``BlockMask`` for all layers, or a dict of two by layer type."""
        full = self._mask(None)
        window = self.layout.window
        sliding = full if window is None else self._mask(window)
        if self.layout.kind == "one":
            return sliding
        return {"full_attention": full, "sliding_attention": sliding}

    def _mask(self, window: int | None) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        family, branch, position = self.family, self.branch, self.position

        # The tensors are inputs of the compiled kernel, so that one compilation serves all rows.
        def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
            distance = position[query] - position[key]
            seen = family[query] == family[key]
            seen = seen & follows(branch[query], branch[key], distance)
            return seen if window is None else seen & (distance < window)

        size = len(family)
        return create_block_mask(sees, None, None, size, size, device=family.device)


def packed_rows(
    tokens: Sequence[Tokens],
    families: Sequence[Sequence[int]],
    *,
    token_budget: int,
    pad_id: int,
    layout: MaskLayout,
    states: Sequence[torch.Tensor] | None = None,
) -> list[Rows]:
    """Rows of one sequence of tokens each, in which families stand one behind the other.

    Arguments as of :func:`~rmexp.backbone.packing.shared_rows`; ``token_budget`` is a row's length,
    which a longer family alone exceeds.
    """
    rows = [row for family in families for row in split_family(tokens, family, token_budget)]
    packs: list[list[SharedRow]] = []
    room: list[int] = []
    # First fit, longest first.
    for row in sorted(rows, key=lambda row: -row.length):
        place = next((i for i, left in enumerate(room) if row.length <= left), None)
        if place is None:
            packs.append([row])
            room.append(token_budget - row.length)
        else:
            packs[place].append(row)
            room[place] -= row.length
    return [_build(pack, tokens, pad_id, layout, states) for pack in packs]


def _build(
    rows: Sequence[SharedRow],
    tokens: Sequence[Tokens],
    pad_id: int,
    layout: MaskLayout,
    states: Sequence[torch.Tensor] | None,
) -> Rows:
    laid_out = [row.laid_out(tokens) for row in rows]
    lengths = [row.length for row in rows]
    real = sum(lengths)
    width = -(-real // _BLOCK) * _BLOCK
    starts = np.cumsum([0, *lengths[:-1]])

    def whole(parts: Sequence[Any], filling: int) -> torch.Tensor:
        column = np.full(width, filling, dtype=np.int64)
        column[:real] = np.concatenate(parts)
        return torch.from_numpy(column)

    position = whole([own.position for own in laid_out], 0)
    ends = [start + own.ends for start, own in zip(starts, laid_out, strict=True)]
    members = [member for row in rows for member in row.members]
    hidden = None
    if states is not None:
        hidden = stack_states([[p for row in rows for p in row.states_of(states)]], width)
    return Rows(
        input_ids=whole([own.ids for own in laid_out], pad_id)[None],
        row=torch.zeros(len(members), dtype=torch.long),
        column=torch.from_numpy(np.concatenate(ends)),
        sequence=np.array(members, dtype=np.int64),
        tokens=real,
        attention_mask=PackedPlaces(
            family=whole([np.repeat(np.arange(len(rows)), lengths)], _PADDING),
            branch=whole([own.branch for own in laid_out], 0),
            position=position,
            layout=layout,
        ),
        position_ids=position[None],
        hidden=hidden,
    )


def flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attend by a ``BlockMask``: ``[batch, heads, tokens, width]`` to the same.

    By FlexAttention: a GPU's compiled kernel. A CPU has no backward pass of it.
    """
    from torch.nn.attention.flex_attention import flex_attention

    compiled = query.device.type != "cpu" and not torch.compiler.is_compiling()
    attend = _compiled() if compiled else flex_attention
    found: torch.Tensor = attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found


@lru_cache(maxsize=1)
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@lru_cache(maxsize=4)
def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def cap(score: Any, batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        capped: torch.Tensor = softcap * torch.tanh(score / softcap)
        return capped

    return cap


def whole_matrix(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """The same by the whole matrix of scores: right everywhere, and slow."""
    seen = getattr(mask, "_rmexp_whole", None)
    if seen is None:
        from torch.nn.attention.flex_attention import create_mask

        size = query.shape[2]
        seen = create_mask(mask.mask_mod, 1, 1, size, size, device=str(query.device))
        mask._rmexp_whole = seen  # every layer is given the same mask
    groups = query.shape[1] // key.shape[1]
    keys, values = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ keys.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1) @ values
