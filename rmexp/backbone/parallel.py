"""Rectangles of one batch run at the same time on a CPU, one thread each.

Small layers leave little to share out among threads: the products are short and everything
between them waits for the slowest. Whole rectangles side by side keep every core busy.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import torch

from rmexp.backbone.batching import Rows, in_asked_order
from rmexp.backbone.classifier import Classifier
from rmexp.backbone.text import Tokens
from rmexp.errors import UserError

_CPU_TOKENS = 512
_T = TypeVar("_T")
_R = TypeVar("_R")


def parallel_scores(
    classifier: Classifier,
    rows: Sequence[Rows],
    count: int,
    progress: Callable[[int], None] = lambda scored: None,
) -> torch.Tensor:
    """Scores of all sequences in the asked order: float32 ``[count]``.

    On a CPU with several threads the rectangles run side by side, forward and backward. Gradients
    are summed in the rectangles' order, so the same thread count gives the same bits. With dropout
    they run one after the other: threads would draw from one generator in any order.

    ``progress`` is called with the sequences scored so far, where no gradients are asked for.
    """
    device = rows[0].input_ids.device
    threads = torch.get_num_threads()
    if (
        device.type != "cpu"
        or classifier.sharded
        or classifier.compiled
        or (classifier.peft.drops and torch.is_grad_enabled())
        or threads == 1
        or len(rows) == 1
        or any(classifier.runs_alone(r.input_ids.shape[1]) for r in rows)
    ):
        fewer = _fewer_than_another_rank(rows) if classifier.sharded else 0
        scores = _gathered(map(classifier.scores, rows), progress)
        for _ in range(fewer):
            # Each run gathers a sharded model's weights from all ranks, forward and backward.
            scores[-1] = scores[-1] + 0 * classifier.scores(rows[0].first_token()).sum()
        return in_asked_order(rows, scores, count)
    if torch.is_grad_enabled():
        trained = [p for p in classifier.model.parameters() if p.requires_grad]
        joined = _SideBySide.apply(classifier, rows, threads, *trained)
        return in_asked_order(rows, [joined], count)

    def run(r: Rows) -> torch.Tensor:
        with torch.inference_mode():
            return classifier.scores(r)

    return in_asked_order(rows, _gathered(side_by_side(run, rows, threads), progress), count)


def _fewer_than_another_rank(rows: Sequence[Rows]) -> int:
    """How many rectangles fewer this rank has than the one with the most."""
    most = torch.tensor(len(rows), device=rows[0].input_ids.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - len(rows)


def scores_on_devices(
    replicas: Sequence[Classifier],
    rows: Sequence[Rows],
    count: int,
    progress: Callable[[int], None] = lambda scored: None,
) -> torch.Tensor:
    """Scores in the asked order, ``[count]`` on the CPU: each device takes the next rectangle.

    Args:
        replicas: the same network, each on a device of its own.
        rows: rectangles, on the CPU; the largest first, so that the devices end together.
        count: sequences in them.
        progress: called with the sequences scored so far, from one thread at a time.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(rows)):
        waiting.put(number)
    scores: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    told, scored = threading.Lock(), 0

    def work(classifier: Classifier) -> None:
        nonlocal scored
        device = classifier.device
        with torch.inference_mode():
            while True:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                scores[number] = classifier.scores(rows[number].to(device)).cpu()
                with told:
                    scored += len(scores[number])
                    progress(scored)

    with ThreadPoolExecutor(len(replicas), "rmexp-devices") as pool:
        for done in [pool.submit(work, classifier) for classifier in replicas]:
            done.result()
    return in_asked_order(rows, scores, count)


def scoring_devices(name: str) -> list[str]:
    """The devices that a name means: ``auto`` or ``cuda`` all GPUs, else the one of that name.

    Raises:
        UserError: it cannot be used.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":
        return ["cpu"]
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"device: '{name}' cannot be used: {first}") from error
    return [name]


def _gathered(
    scores: Iterable[torch.Tensor], progress: Callable[[int], None]
) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    scored = 0
    for of_row in scores:
        found.append(of_row)
        scored += len(of_row)
        progress(scored)
    return found


def row_budget(tokens: Sequence[Tokens], token_budget: int, device: str = "cpu") -> int:
    """The token budget; on a CPU less where small rectangles are faster.

    A CPU gains nothing from rectangles beyond some hundred tokens: like lengths fill small ones
    with less padding, and what they compute stays in the cache. Each thread should get one or two.
    """
    if device != "cpu":
        return token_budget
    threads = torch.get_num_threads()
    budget = min(token_budget, _CPU_TOKENS)
    share = sum(len(t.ids) for t in tokens) // (2 * threads)
    return budget if threads == 1 else max(64, min(budget, share))


def side_by_side(run: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterable[_R]:
    """Run items in threads of their own, each with one thread inside; results in order."""
    return _pool(threads, os.getpid()).map(run, items)


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool a process: a forked child has the parent's pool but not its threads."""
    return ThreadPoolExecutor(threads, "rmexp-rows", initializer=_one_thread)


def _one_thread() -> None:
    """The setting holds for the calling thread; the caller's own count stays as it is."""
    torch.set_num_threads(1)


class _SideBySide(torch.autograd.Function):
    """All rectangles' scores as one node of the graph, with a graph of its own each inside."""

    @staticmethod
    def forward(
        ctx: Any,
        classifier: Classifier,
        rows: Sequence[Rows],
        threads: int,
        *trained: torch.Tensor,
    ) -> torch.Tensor:
        def run(r: Rows) -> torch.Tensor:
            with torch.enable_grad():
                return classifier.scores(r)

        ctx.threads, ctx.trained = threads, trained
        ctx.scores = list(side_by_side(run, rows, threads))
        return torch.cat([s.detach() for s in ctx.scores])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        scores, ctx.scores = ctx.scores, None
        pieces = gradient.split([len(s) for s in scores])

        def run(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
            return torch.autograd.grad(pair[0], ctx.trained, pair[1], allow_unused=True)

        total: list[torch.Tensor | None] = [None] * len(ctx.trained)
        for found in side_by_side(run, zip(scores, pieces, strict=True), ctx.threads):
            for i, part in enumerate(found):
                if part is not None:
                    known = total[i]
                    total[i] = part if known is None else known.add_(part)
        return (None, None, None, *total)
