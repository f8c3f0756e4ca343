"""From tokenised pairs to optimisation batches, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.batching import Rows
from rmexp.backbone.classifier import Classifier
from rmexp.backbone.parallel import row_budget
from rmexp.backbone.text import Tokens
from rmexp.backbone.tokens import TokenStore, same_tokens
from rmexp.reward.data import TrainingPairs


@dataclass(frozen=True)
class TokenisedPairs:
    """Pairs with their tokens.

    Attributes:
        pairs: what remained.
        chosen: ``[pairs]`` tokens of prompt and preferred response.
        rejected: ``[pairs]`` tokens of prompt and the other.
        counts: what was dropped and what truncation touched.
    """

    pairs: TrainingPairs
    chosen: list[Tokens]
    rejected: list[Tokens]
    counts: dict[str, int]


def tokenise_pairs(pairs: TrainingPairs, store: TokenStore) -> TokenisedPairs:
    """Tokenise both sides; drop and count pairs that are one text to the model.

    Truncation can make two responses identical (OpenRLHF #1311); such a pair has no gradient but
    a wrong share in every metric.
    """
    chosen = store.tokens(pairs.prompts, pairs.chosen)
    rejected = store.tokens(pairs.prompts, pairs.rejected)
    both = list(zip(chosen, rejected, strict=True))
    differ = [not same_tokens(a, b) for a, b in both]
    was_cut = [bool(a.cut_prompt + a.cut_response + b.cut_prompt + b.cut_response) for a, b in both]
    identical = sum(
        not d and not (a.cut_response or b.cut_response)
        for d, (a, b) in zip(differ, both, strict=True)
    )
    keep = np.flatnonzero(differ)
    counts = {
        "pairs": len(pairs),
        "dropped_identical": identical,
        "dropped_identical_after_truncation": len(pairs) - len(keep) - identical,
        "truncated": sum(was_cut),
        "truncated_responses": sum(bool(a.cut_response or b.cut_response) for a, b in both),
        "tokenised": store.tokenised,
    }
    return TokenisedPairs(
        pairs.take(keep), [chosen[i] for i in keep], [rejected[i] for i in keep], counts
    )


@dataclass(frozen=True)
class PairBatch:
    """One rank's share of an optimisation batch.

    Sequences 0 to n-1 are the chosen sides, n to 2n-1 the rejected ones.

    Attributes:
        rows: the token rectangles.
        index: int64 ``[pairs]``, rows of the tokenised pairs; -1 marks filling without weight.
        margin: float32 ``[pairs]`` or None.
        target: float32 ``[pairs]`` or None.
        weight: float32 ``[pairs]``.
        global_weight: the weights' sum over all ranks, whose shares make one optimiser step.
        plain_tokens: real tokens of both sides run apart.
    """

    rows: list[Rows]
    index: NDArray[np.int64]
    margin: torch.Tensor | None
    target: torch.Tensor | None
    weight: torch.Tensor
    global_weight: float
    plain_tokens: int

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on a device."""
        return PairBatch(
            [r.to(device) for r in self.rows],
            self.index,
            None if self.margin is None else self.margin.to(device),
            None if self.target is None else self.target.to(device),
            self.weight.to(device),
            self.global_weight,
            self.plain_tokens,
        )

    @property
    def tokens(self) -> int:
        """Real tokens in the rows."""
        return sum(r.tokens for r in self.rows)


@dataclass(frozen=True)
class BatchIndex:
    """Which pairs one rank runs at once, with the weight of the whole step."""

    index: NDArray[np.int64]
    global_weight: float


def micro_batches(pairs: int, micro_batch_pairs: int | None, ranks: int) -> int:
    """How many parts a step of so many pairs over all ranks is run in, the same on every rank.

    >>> micro_batches(16, 3, ranks=2), micro_batches(16, None, ranks=2)
    (3, 1)
    """
    most = -(-pairs // ranks)
    return -(-most // (micro_batch_pairs or most))


class PairSampler:
    """Pairs in a fresh seeded order each epoch, cut into global batches, shared among ranks.

    Every rank draws the same order and takes its own stride, so any number of ranks sees the same
    global batches and knows their weight without asking the others.

    Args:
        count: pairs there are.
        batch_pairs: of them in an optimiser step, over all ranks.
        seed: of the order.
        weight: of each pair, ``[pairs]``; None for equal ones.
        rank, ranks: which this one is, and how many there are.
        shuffle: a fresh order each epoch, else the given one.
        micro_batch_pairs: most pairs that a rank runs at once; None for all that are its own.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_pairs: int,
        seed: int,
        weight: NDArray[np.floating] | None = None,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        micro_batch_pairs: int | None = None,
    ) -> None:
        self.count = count
        self.batch_pairs = batch_pairs
        self.seed = seed
        self.weight = np.ones(count) if weight is None else np.asarray(weight, dtype=np.float64)
        self.rank, self.ranks = rank, ranks
        self.shuffle = shuffle
        self.micro_batch_pairs = micro_batch_pairs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_pairs)
        return whole * self._parts(self.batch_pairs) + (self._parts(rest) if rest else 0)

    def _parts(self, pairs: int) -> int:
        return micro_batches(pairs, self.micro_batch_pairs, self.ranks)

    def __iter__(self) -> Iterator[BatchIndex]:
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, self.count, self.batch_pairs):
            batch = order[start : start + self.batch_pairs]
            own = batch[self.rank :: self.ranks]
            weight = float(self.weight[batch].sum())
            for part in np.array_split(own, self._parts(len(batch))):
                # A rank without a pair must still take part: filling without weight.
                yield BatchIndex(part if len(part) else np.array([-1]), weight)


class PairDataset:
    """Builds the rectangles of a batch; indexed by :class:`BatchIndex`.

    Args:
        data: the pairs.
        classifier: the model that will run them.
        token_budget: tokens in one rectangle; those of a micro-batch run one after the other, and
            all are kept until its backward pass.
        share_prompts: whether the two sides of a pair run their common beginning once.
        states: frozen states of the chosen, then of the rejected sides.
    """

    def __init__(
        self,
        data: TokenisedPairs,
        classifier: Classifier,
        *,
        token_budget: int,
        share_prompts: bool = True,
        states: Sequence[torch.Tensor] | None = None,
    ) -> None:
        self.data = data
        self.classifier = classifier
        self.token_budget = token_budget
        self.share_prompts = share_prompts
        self.states = states

    def __len__(self) -> int:
        return len(self.data.pairs)

    def __getitem__(self, batch: BatchIndex) -> PairBatch:
        where = np.maximum(batch.index, 0)
        pairs, count = self.data.pairs, len(self.data.pairs)
        tokens = [self.data.chosen[i] for i in where] + [self.data.rejected[i] for i in where]
        states = None
        if self.states is not None:
            states = [self.states[i] for i in (*where, *(where + count))]
        families = [[i, len(where) + i] for i in range(len(where))] if self.share_prompts else None
        budget = row_budget(tokens, self.token_budget, self.classifier.device.type)
        weight = np.ones(len(where)) if pairs.weight is None else np.asarray(pairs.weight)[where]
        return PairBatch(
            rows=self.classifier.rows(tokens, families, budget, states),
            index=batch.index,
            margin=_column(pairs.margin, where),
            target=_column(pairs.target, where),
            weight=torch.from_numpy(np.where(batch.index < 0, 0.0, weight).astype(np.float32)),
            global_weight=batch.global_weight,
            plain_tokens=sum(len(t.ids) for t in tokens),
        )


def _column(values: NDArray[np.floating] | None, where: NDArray[np.int64]) -> torch.Tensor | None:
    if values is None:
        return None
    return torch.from_numpy(np.asarray(values)[where].astype(np.float32))
