"""Attention over short rows on one CPU thread: plain products beside PyTorch's fused kernel."""

from __future__ import annotations

import time

import torch
from results_file import ResultsFile

from rmexp.backbone.attention import short_rows_attention

SHAPES = [(4, 9, 3, 150, 64), (2, 9, 3, 300, 64), (1, 9, 3, 512, 64), (16, 12, 12, 80, 32)]


class Layer(torch.nn.Module):
    is_causal = True


def fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return found.transpose(1, 2)


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    return short_rows_attention(Layer(), query, key, value, mask)[0]


def main() -> None:
    torch.set_num_threads(1)
    with ResultsFile("attention_cpu") as results:
        results.line("CPU milliseconds forward and backward, best of 8, a full mask given")
        results.line(
            f"{'dtype':<10}{'rows':>5}{'heads':>7}{'tokens':>8}{'width':>7}{'fused':>8}{'plain':>8}"
            f"{'times':>7}"
        )
        for dtype in (torch.bfloat16, torch.float32):
            for rows, heads, shared, tokens, width in SHAPES:
                mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool).tril()
                parts = [
                    torch.randn(rows, h, tokens, width, dtype=dtype, requires_grad=True)
                    for h in (heads, shared, shared)
                ]
                times = []
                for attend in (fused, plain):
                    best = float("inf")
                    for _ in range(8):
                        begin = time.process_time()
                        torch.autograd.grad(attend(*parts, mask).sum(), parts)
                        best = min(best, time.process_time() - begin)
                    times.append(1000 * best)
                results.line(
                    f"{str(dtype).removeprefix('torch.'):<10}{rows:>5}{heads:>7}{tokens:>8}"
                    f"{width:>7}{times[0]:>8.1f}{times[1]:>8.1f}{times[0] / times[1]:>7.1f}"
                )


if __name__ == "__main__":
    main()
