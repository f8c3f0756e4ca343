from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rmexp.backbone.attention import LONGEST, short_rows_attention


class Layer(torch.nn.Module):
    def __init__(self, causal: bool, groups: int) -> None:
        super().__init__()
        self.is_causal = causal
        self.num_key_value_groups = groups


def tensors(heads: int, shared: int, tokens: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, h, tokens, 8, requires_grad=True) for h in (heads, shared, shared)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", ["no", "keys", "full"])
@pytest.mark.parametrize("shared", [6, 2])
def test_it_is_attention(causal: bool, masked: str, shared: int):
    query, key, value = tensors(6, shared, 11)
    mask = None
    if masked == "keys":
        mask = (torch.arange(11) < 7)[None, None, None].expand(2, 1, 11, 11)
    elif masked == "full":
        mask = (torch.rand(2, 1, 11, 11) < 0.5) | torch.eye(11, dtype=torch.bool)
    layer = Layer(causal, 6 // shared)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=True
    ).transpose(1, 2)
    for _ in range(2):  # the second time, the mask's sum is there already
        found, _ = short_rows_attention(layer, query, key, value, mask)
        assert torch.allclose(found, expected, atol=1e-5)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    given = torch.autograd.grad((found * weight).sum(), (query, key, value))
    for a, b in zip(wanted, given, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_long_rows_and_rows_without_gradients_take_the_usual_kernel(
    monkeypatch: pytest.MonkeyPatch,
):
    layer = Layer(True, 1)
    query, key, value = tensors(1, 1, LONGEST + 1)
    monkeypatch.setattr(torch, "baddbmm", None)
    found, _ = short_rows_attention(layer, query, key, value, None)
    assert found.shape == (2, LONGEST + 1, 1, 8)
    with torch.no_grad():
        short_rows_attention(layer, *(t[:, :, :5].detach() for t in (query, key, value)), None)
