"""Attention over short rows on a CPU: two plain products and a softmax.

PyTorch's fused CPU kernel costs 1.3 to 5 times as much forward and backward in bfloat16 below some
500 tokens (benchmarks/attention_cpu.py). Packed rows bring a mask of blocks, which FlexAttention
takes; everything else goes to the usual kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from rmexp.backbone.packed import flex, whole_matrix

NAME = "rmexp_short_rows"
LONGEST = 512  # the products keep tokens^2 numbers a head for the backward pass


def use_short_rows(model: Any) -> None:
    """Let a model that attends by ``sdpa`` attend this way where it is faster."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, short_rows_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def short_rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend: ``[batch, heads, tokens, width]`` to ``[batch, tokens, heads, width]``."""
    batch, heads, tokens, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    if not isinstance(attention_mask, torch.Tensor | None):
        attend = whole_matrix if query.device.type == "cpu" else flex
        mixed = attend(query, key, value, attention_mask, scale, kwargs.get("softcap"))
        return mixed.transpose(1, 2).contiguous(), None
    groups = heads // key.shape[1]
    short = (
        query.device.type == "cpu"
        and query.requires_grad
        and 1 < tokens <= LONGEST
        and key.shape[2] == tokens
        and key.shape[-1] == value.shape[-1] == width
        and position_bias is None
        and not dropout
        and kwargs.get("softcap") is None
        and kwargs.get("s_aux") is None
    )
    if not short:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **kwargs,
        )
    if attention_mask is not None:
        bias: torch.Tensor | None = _bias_of(attention_mask, query.dtype, batch, heads, groups)
    else:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        bias = _causal_bias(tokens, groups, query.dtype) if causal else None
    # The heads that share a key stand below each other, so that no key is copied.
    rows = query.reshape(batch * heads // groups, groups * tokens, width)
    keys = key.reshape(-1, tokens, width).transpose(1, 2)
    if bias is None:
        scores = torch.bmm(rows * scale, keys)
    else:
        scores = torch.baddbmm(bias, rows, keys, alpha=scale)
    mixed = torch.bmm(torch.softmax(scores, dim=-1), value.reshape(-1, tokens, width))
    return mixed.view(batch, heads, tokens, width).transpose(1, 2).contiguous(), None


def _bias_of(
    mask: torch.Tensor, dtype: torch.dtype, batch: int, heads: int, groups: int
) -> torch.Tensor:
    """The mask as what is added to the scores; kept on the mask, which every layer is given."""
    known = getattr(mask, "_rmexp_bias", None)
    if known is not None and known.dtype == dtype:
        return known
    bias = _additive(mask, dtype)
    tokens = bias.shape[-1]
    bias = bias.expand(batch, heads, tokens, tokens)
    bias = bias.reshape(batch * heads // groups, groups * tokens, tokens)
    mask._rmexp_bias = bias
    return bias


@lru_cache(maxsize=64)
def _causal_bias(tokens: int, groups: int, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    return _additive(mask, dtype).repeat(groups, 1)[None]


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
