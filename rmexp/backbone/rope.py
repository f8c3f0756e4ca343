"""Rotary positions whose frequencies follow the longest sequence of a call.

LongRoPE has one set of frequencies up to the original length and another beyond it; dynamic NTK
scaling has others at every length beyond. There a text has a score of its own only when run alone.
"""

from __future__ import annotations

from typing import Any


def fixed_length(config: Any) -> int | None:
    """From how many tokens on frequencies follow the length, None where they never do."""
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    # One set of parameters, or one by layer type.
    sets = [given] if "rope_type" in given else [p for p in given.values() if isinstance(p, dict)]
    key = "original_max_position_embeddings"
    longrope = [int(p[key]) for p in sets if p.get("rope_type") == "longrope"]
    dynamic = [int(text.max_position_embeddings) for p in sets if p.get("rope_type") == "dynamic"]
    return min([*longrope, *dynamic], default=None)


def forget_lengths(trunk: Any) -> None:
    """Let the next call compute its frequencies anew: dynamic ones stay at the longest so far."""
    for module in trunk.modules():
        for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
            setattr(module, name, 0)
