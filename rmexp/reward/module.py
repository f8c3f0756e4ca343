"""The LightningModule that every trial runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.parallel import parallel_scores
from rmexp.backbone.sharding import shard
from rmexp.reward.batches import PairBatch
from rmexp.reward.losses import NonFiniteError, pair_losses
from rmexp.reward.options import LossOptions, OptimiserOptions
from rmexp.reward.ranks import StoppedByRankZero

# What it returns is kept in the epoch's row of history.
Report = Callable[[int, dict[str, float]], Mapping[str, float] | None]
Resumed = Callable[[list[dict[str, float]]], None]
Drift = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]


@dataclass
class PairOutcomes:
    """Rewards of pairs seen, gathered for metrics over single pairs."""

    index: list[np.ndarray] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    def add(self, index: np.ndarray, *columns: torch.Tensor) -> None:
        """Add a batch: columns of float32 ``[pairs]``, rows with index -1 are filling."""
        real = index >= 0
        self.index.append(index[real])
        # On the CPU, where a checkpoint's are: torch.cat takes no two devices.
        table = torch.stack([c.detach().float() for c in columns], dim=1).cpu()
        self.values.append(table[torch.from_numpy(real)])

    def gather(self, strategy: Any) -> tuple[np.ndarray, np.ndarray]:
        """Over all ranks, each pair once: int64 ``[pairs]`` and float64 ``[pairs, columns]``."""
        index = np.concatenate(self.index) if self.index else np.zeros(0, np.int64)
        values = torch.cat(self.values).double().numpy() if self.values else np.zeros((0, 3))
        if strategy.world_size > 1:
            everyone: list[Any] = [None] * strategy.world_size
            torch.distributed.all_gather_object(everyone, (index, values))
            index = np.concatenate([i for i, _ in everyone])
            values = np.concatenate([v for _, v in everyone])
        index, first = np.unique(index, return_index=True)
        return index, values[first]


def outcome_metrics(table: np.ndarray, prefix: str) -> dict[str, float]:
    """Means over single pairs of ``[pairs, (loss, chosen, rejected)]``; a tie counts half."""
    if not len(table):
        return {}
    losses, chosen, rejected = table.T[:3]
    delta = chosen - rejected
    rewards = np.concatenate([chosen, rejected])
    return {
        f"{prefix}/loss": float(losses.mean()),
        f"{prefix}/accuracy": float(((delta > 0) + 0.5 * (delta == 0)).mean()),
        f"{prefix}/margin": float(delta.mean()),
        f"{prefix}/reward_mean": float(rewards.mean()),
        f"{prefix}/reward_std": float(rewards.std()),
    }


class RewardModule(pl.LightningModule):
    """Bradley-Terry training of a classifier with one logit.

    Every step's loss is the weighted sum over its pairs divided by the weight of the whole global
    batch, so any number of ranks takes the same step as one.

    Args:
        classifier: the model.
        ids: names of the training pairs, for messages.
        validation_ids: names of the validation pairs.
        loss: which loss.
        optimiser: learning rate, schedule and clipping.
        steps: optimiser steps of the whole run, for the schedule.
        report: called on rank 0 after each epoch with (epoch, metrics); may raise to stop,
            or return more metrics of the epoch.
        resumed: called on rank 0 before the first step of a run that goes on, with the history of
            the epochs behind it; may raise to stop.
        drift: what to add to ``validation/`` from scores ``[2 * pairs]`` of the validation pairs,
            chosen first, by the epoch before and by this one.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        ids: Sequence[str],
        validation_ids: Sequence[str],
        loss: LossOptions,
        optimiser: OptimiserOptions,
        steps: int,
        report: Report | None = None,
        resumed: Resumed | None = None,
        drift: Drift | None = None,
    ) -> None:
        super().__init__()
        self.model = classifier.model
        self.classifier = classifier
        self.ids, self.validation_ids = ids, validation_ids
        self.loss_options, self.optimiser_options = loss, optimiser
        self.steps = steps
        self.report, self.resumed, self.drift = report, resumed, drift
        self._earlier = np.zeros(0)
        self.history: list[dict[str, float]] = []
        self.tokens_seen = 0
        self.seconds = 0.0
        # A checkpoint holds only what is trained: an adapter's has no copy of the base.
        self.strict_loading = False
        self._is_sharded = False
        self._random_state: torch.Tensor | None = None
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._training, self._validation = PairOutcomes(), PairOutcomes()
        self._gradient_norms: list[torch.Tensor] = []
        self._epoch_tokens, self._epoch_plain_tokens, self._epoch_pairs = 0, 0, 0
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self._trained_until: float | None = None

    def configure_model(self) -> None:
        """Shard the model where the strategy is fsdp."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not self._is_sharded:
            shard(self.classifier, self.trainer.strategy.device_mesh["data_parallel"])
            self._is_sharded = True

    def forward(self, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards of the chosen and rejected sides: float32 ``[pairs]`` each."""
        count = len(batch.index)
        scores = parallel_scores(self.classifier, batch.rows, 2 * count)
        return scores[:count], scores[count:]

    def training_step(self, batch: PairBatch, batch_index: int) -> torch.Tensor:
        """The rank's share of the loss, scaled so that ranks' mean gradient is the global one."""
        chosen, rejected = self(batch)
        options = self.loss_options
        losses = pair_losses(
            chosen,
            rejected,
            batch.margin,
            batch.target,
            options.label_smoothing,
            options.center_coefficient,
        )
        self._must_be_finite(losses, batch, self.ids, "loss")
        self._training.add(batch.index, losses, chosen, rejected)
        self._epoch_tokens += batch.tokens
        self._epoch_plain_tokens += batch.plain_tokens
        self._epoch_pairs += int((batch.index >= 0).sum())
        share = (losses * batch.weight).sum() / max(batch.global_weight, 1e-12)
        # Lightning divides by the number of micro-batches, as if each had a mean of its own.
        return share * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def validation_step(self, batch: PairBatch, batch_index: int) -> None:
        """Rewards and plain Bradley-Terry loss of held-out human preferences."""
        chosen, rejected = self(batch)
        losses = pair_losses(chosen, rejected)
        self._must_be_finite(losses, batch, self.validation_ids, "validation loss")
        self._validation.add(batch.index, losses, chosen, rejected)

    @staticmethod
    def _must_be_finite(
        losses: torch.Tensor, batch: PairBatch, ids: Sequence[str], what: str
    ) -> None:
        finite = torch.isfinite(losses.detach())
        if finite.all():
            return
        bad = [ids[i] for i in batch.index[~finite.cpu().numpy()] if i >= 0][:5]
        raise NonFiniteError(f"{what} is NaN or infinite at pairs {', '.join(bad)}")

    def on_train_epoch_start(self) -> None:
        """Start the epoch's counts."""
        self._start_epoch()

    def on_validation_start(self) -> None:
        """Training time ends here: validation is not part of tokens per second."""
        self._trained_until = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Turn the epoch's outcomes into one row of history."""
        until = time.perf_counter() if self._trained_until is None else self._trained_until
        seconds = self._seconds_before + until - self._began
        self.seconds += seconds
        strategy = self.trainer.strategy
        metrics = outcome_metrics(self._training.gather(strategy)[1], "train")
        metrics |= self._validation_metrics(self._validation.gather(strategy)[1])
        norms = torch.stack(self._gradient_norms) if self._gradient_norms else torch.zeros(1)
        tokens, plain_tokens, pairs = self._all_ranks(
            [self._epoch_tokens, self._epoch_plain_tokens, self._epoch_pairs]
        )
        self.tokens_seen += tokens
        metrics |= {
            "train/gradient_norm": float(norms.mean()),
            "train/tokens_per_second": tokens / max(seconds, 1e-9),
            "train/pairs_per_second": pairs / max(seconds, 1e-9),
            "train/tokens_saved": 1 - tokens / max(plain_tokens, 1),
        }
        row: dict[str, Any] = {"epoch": self.current_epoch + 1, "step": self.global_step, **metrics}
        self.history.append(row)

        def tell() -> None:
            if self.report is not None:
                row.update(self.report(row["epoch"], dict(row)) or {})

        self._on_rank_zero(tell, f"after epoch {row['epoch']}")

    def _validation_metrics(self, table: np.ndarray) -> dict[str, float]:
        metrics = outcome_metrics(table, "validation")
        scores = table[:, 1:3].T.ravel()
        if self.drift is not None and self._earlier.size:
            moved = self.drift(self._earlier, scores)
            metrics |= {f"validation/{name}": value for name, value in moved.items()}
        self._earlier = scores
        return metrics

    def _on_rank_zero(self, call: Callable[[], None], when: str) -> None:
        """What stops rank 0 in it stops all ranks."""
        stop: BaseException | None = None
        if self.trainer.is_global_zero:
            try:
                call()
            except BaseException as error:
                stop = error
        stopped = self._all_ranks([int(stop is not None)])[0]
        if stop is not None:
            raise stop
        if stopped:
            raise StoppedByRankZero(when)

    def _all_ranks(self, counts: list[int]) -> list[int]:
        total = torch.tensor(counts, device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return [int(t) for t in total]

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the whole gradient's norm and keep what it was."""
        limit = self.optimiser_options.gradient_clip or float("inf")
        trained = [p for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not torch.isfinite(norm):
            raise NonFiniteError(f"the gradient is NaN or infinite at step {self.global_step}")
        self._gradient_norms.append(norm.detach().cpu())

    def configure_optimizers(self) -> Any:
        """AdamW (no decay on biases and norms), linear warm-up, then linear decay or none."""
        options = self.optimiser_options
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=options.learning_rate, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        options = self.optimiser_options
        warm = min(1.0, (step + 1) / (options.warmup_steps + 1))
        if options.schedule == "constant":
            return warm
        left = (self.steps - step) / max(1, self.steps - options.warmup_steps)
        return min(warm, max(0.0, left))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only trained weights, and what the epoch has seen so far, in plain tensors."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {
            name: w for name, w in checkpoint["state_dict"].items() if name in trained
        }
        index, values = self._training.gather(self.trainer.strategy)
        norms = self._gradient_norms
        checkpoint["rmexp"] = {
            "history": self.history,
            "index": torch.from_numpy(index),
            "values": torch.from_numpy(values),
            "gradient_norms": torch.stack(norms) if norms else torch.zeros(0),
            "counts": self._all_ranks(
                [self._epoch_tokens, self._epoch_plain_tokens, self._epoch_pairs]
            ),
            "tokens_seen": self.tokens_seen,
            "seconds": self.seconds,
            "epoch_seconds": self._seconds_before + time.perf_counter() - self._began,
            "random_state": torch.get_rng_state(),
            "validation_scores": torch.from_numpy(self._earlier),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in the middle of the epoch."""
        state = checkpoint["rmexp"]
        self._start_epoch()
        self.history = list(state["history"])
        self._training.index = [state["index"].numpy()]
        self._training.values = [state["values"].float()]
        self._gradient_norms = list(state["gradient_norms"])
        counts = state["counts"] if self.trainer.is_global_zero else [0, 0, 0]
        self._epoch_tokens, self._epoch_plain_tokens, self._epoch_pairs = counts
        self.tokens_seen, self.seconds = state["tokens_seen"], state["seconds"]
        self._seconds_before = state["epoch_seconds"]
        self._random_state = state["random_state"]
        # An older rmexp stored none.
        self._earlier = state.get("validation_scores", torch.zeros(0)).numpy()

    def on_train_start(self) -> None:
        """Tell the epochs behind a checkpoint; the adapters' dropout goes on where it was."""
        if self._random_state is None:
            return

        def tell() -> None:
            if self.resumed is not None:
                self.resumed([dict(row) for row in self.history])

        self._on_rank_zero(tell, "before the first step")
        torch.set_rng_state(self._random_state)
        self._began = time.perf_counter()

    def transfer_batch_to_device(self, batch: PairBatch, device: Any, index: int) -> PairBatch:
        """Lightning's own transfer knows no dataclasses with plain data."""
        return batch if device.type == "cpu" else batch.to(device)
