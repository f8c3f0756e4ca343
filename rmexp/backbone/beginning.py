"""What many texts begin with, such as a template's system prompt, run once for all of them."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.text import Tokens, common_prefix

SHORTEST = 8  # fewer tokens save less than their keys and values cost in every layer
_FEWEST = 4  # families; below, running it apart is not worth a pass of its own


@dataclass(frozen=True)
class Beginning:
    """Some first tokens and what later tokens see of them.

    Attributes:
        ids: int32 ``[tokens]``.
        seen: keys and values of each layer, both ``[1, heads, tokens, width]``.
    """

    ids: NDArray[np.int32]
    seen: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Beginning:
        """The same on a device."""
        return Beginning(self.ids, tuple((k.to(device), v.to(device)) for k, v in self.seen))

    def starts(self, ids: NDArray[np.int32]) -> bool:
        """Whether some tokens begin so."""
        return np.array_equal(ids[: len(self.ids)], self.ids)

    def as_arguments(self, trunk: Any, rows: int) -> dict[str, Any]:
        """What a trunk is given so that its rows follow this beginning."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (key, value) in enumerate(self.seen):
            cache.update(key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1), layer)
        return {cache_argument(trunk): cache, "use_cache": True}


def common_beginning(
    tokens: Sequence[Tokens], families: Sequence[Sequence[int]]
) -> NDArray[np.int32] | None:
    """The first tokens that most families share; None where they are few, or it is short.

    Texts whose beginning was cut off have another and are left out.
    """
    alike: dict[bytes, list[NDArray[np.int32]]] = {}
    count: Counter[bytes] = Counter()
    for family in families:
        heads = {tokens[member].ids[:SHORTEST].tobytes() for member in family}
        if len(heads) == 1:
            (head,) = heads
            count[head] += 1
            alike.setdefault(head, []).extend(tokens[member].ids for member in family)
    if not count or max(count.values()) < _FEWEST:
        return None
    sequences = alike[count.most_common(1)[0][0]]
    shared = common_prefix(sequences)
    return sequences[0][:shared] if shared >= SHORTEST else None


def run_beginning(trunk: Any, ids: NDArray[np.int32]) -> Beginning:
    """Run first tokens through a causal trunk and keep what later tokens see."""
    from transformers import DynamicCache

    cache = DynamicCache()
    device = next(trunk.parameters()).device
    asked = torch.from_numpy(ids.astype(np.int64))[None].to(device)
    trunk(input_ids=asked, use_cache=True, **{cache_argument(trunk): cache})
    return Beginning(ids, tuple((layer.keys, layer.values) for layer in cache.layers))


def cache_argument(model: Any) -> str:
    """What a model calls its cache: transformers 5.24 renamed it and drops the old name in 5.40."""
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"
