"""The loaders of a training run: resumable in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import ModelParallelStrategy

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.frozen import FrozenStates
from rmexp.reward.batches import PairBatch, PairDataset, PairSampler, TokenisedPairs


class PairLoader:
    """Batches in the sampler's order; its state is how many it has given in this epoch.

    Lightning stores that state in checkpoints and sets the sampler's epoch.
    """

    batch_sampler = None  # Lightning looks for it beside the sampler

    def __init__(self, dataset: PairDataset, sampler: PairSampler) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self._given = 0
        self._skip = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[PairBatch]:
        skip, self._skip = self._skip, 0
        for number, index in enumerate(self.sampler):
            if number < skip:
                continue
            self._given = number + 1
            yield self.dataset[index]

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches given before, in the next epoch that is begun."""
        self._skip = state["given"] % len(self)


class PairLoaders(pl.LightningDataModule):
    """Loaders of training and validation pairs; made once ranks are known.

    Args:
        data: training pairs.
        checked: validation pairs.
        classifier: the model that will run them.
        frozen: where its frozen layers' states are kept, None to run the layers.
        batch_pairs: pairs in one optimiser step, over all ranks.
        micro_batch_pairs: most pairs that a rank runs at once; None for all that are its own.
        token_budget: tokens in one rectangle.
        share_prompts: whether the sides of a pair run their common beginning once.
        shuffle: a fresh order of the training pairs each epoch, else the given one.
        seed: of the order.
    """

    def __init__(
        self,
        data: TokenisedPairs,
        checked: TokenisedPairs | None,
        classifier: Classifier,
        frozen: FrozenStates | None,
        *,
        batch_pairs: int,
        micro_batch_pairs: int | None,
        token_budget: int,
        share_prompts: bool,
        shuffle: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.classifier, self.frozen = classifier, frozen
        self.batch_pairs, self.shuffle, self.seed = batch_pairs, shuffle, seed
        self.micro_batch_pairs = micro_batch_pairs

        def dataset(pairs: TokenisedPairs) -> PairDataset:
            return PairDataset(
                pairs, classifier, token_budget=token_budget, share_prompts=share_prompts
            )

        self._train = dataset(data)
        self._validation = dataset(checked) if checked else None

    def setup(self, stage: str) -> None:
        """Find or compute the frozen states, on the rank's own device."""
        if self.frozen is None:
            return
        assert self.trainer is not None
        strategy = self.trainer.strategy
        # A model to be sharded may not fit on one device: it stays where it was loaded.
        if not isinstance(strategy, ModelParallelStrategy):
            self.classifier.model.to(strategy.root_device)
        for dataset in filter(None, (self._train, self._validation)):
            pairs = dataset.data
            dataset.states = self.frozen.states([*pairs.chosen, *pairs.rejected])

    def _loader(
        self,
        dataset: PairDataset,
        shuffle: bool,
        batch_pairs: int,
        micro_batch_pairs: int | None = None,
    ) -> PairLoader:
        assert self.trainer is not None
        sampler = PairSampler(
            len(dataset),
            batch_pairs=batch_pairs,
            seed=self.seed,
            weight=dataset.data.pairs.weight,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
            shuffle=shuffle,
            micro_batch_pairs=micro_batch_pairs,
        )
        return PairLoader(dataset, sampler)

    def train_dataloader(self) -> PairLoader:
        """Training pairs."""
        return self._loader(self._train, self.shuffle, self.batch_pairs, self.micro_batch_pairs)

    def val_dataloader(self) -> Any:
        """Validation pairs in order; wide batches, since without gradients they cost no memory."""
        if self._validation is None:
            return []
        return self._loader(self._validation, False, 8 * self.batch_pairs)
