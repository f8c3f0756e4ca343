"""Small causal models of each kind, and sequences of which some begin alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import small_models
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from rmexp.backbone.text import Tokens

SIZES: dict[str, Any] = {**small_models.SIZES, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "mistral with a window of 6": MistralConfig(**SIZES, sliding_window=6),
    "gemma3 with a window of 5": Gemma3TextConfig(
        **SIZES,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt2": GPT2Config(
        vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, num_labels=1
    ),
}


def sequence(ids: np.ndarray) -> Tokens:
    return Tokens(ids.astype(np.int32), len(ids), False, 0, 0)


def families() -> tuple[list[Tokens], list[list[int]]]:
    draw = np.random.default_rng(1).integers
    tokens, groups = [], []
    for prefix, tails in ((12, (5, 9)), (3, (1, 1)), (20, (4, 2, 7)), (0, (6, 3)), (8, (2,))):
        begin = draw(1, 90, prefix)
        groups.append(list(range(len(tokens), len(tokens) + len(tails))))
        tokens += [sequence(np.concatenate([begin, draw(1, 90, n)])) for n in tails]
    return tokens, groups
