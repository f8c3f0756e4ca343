"""Several ranks, one run: who starts them, and the proof that they all train the same."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, differences


class DifferentRuns(RuntimeError):
    """Ranks that belong together hold different runs."""


class StoppedByRankZero(Exception):
    """Rank 0 stopped the run, such as by pruning; raised on the others."""


def rank_environment(devices: int, nodes: int = 1) -> ClusterEnvironment:
    """How the ranks find each other; they must have been started already.

    Left to itself, Lightning starts further ranks by running ``sys.argv`` again. Within a sweep
    such a rank would run a sweep of its own, and train other hyper-parameters than rank 0
    (lightning-hydra-template #393).

    Raises:
        UserError: more than one rank is wanted, and nobody has started them.
    """
    if devices * nodes == 1:
        # Also inside a SLURM job, where Lightning would take over its signals.
        return LightningEnvironment()
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "LOCAL_RANK" in os.environ:
        return LightningEnvironment()
    if nodes > 1 and SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    raise UserError(
        f"devices={devices}: nobody has started the {devices * nodes} ranks; use rmexp.run_trial "
        "or rmexp train, which start them, or torchrun"
    )


class SameRun(pl.Callback):
    """Before fit every rank proves to all others that it holds the same run.

    Args:
        run: fingerprint of all that the result depends on.
    """

    def __init__(self, run: Fingerprint) -> None:
        self.run = run

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        """Compare; the ranks are connected by now, and nothing is trained yet.

        Raises:
            DifferentRuns: on every rank, naming the parts that differ.
        """
        if trainer.world_size == 1:
            return
        everyone: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyone, self.run.to_plain())
        runs = [Fingerprint.from_plain(plain) for plain in everyone]
        for rank, run in enumerate(runs[1:], 1):
            if named := differences(runs[0], run):
                raise DifferentRuns(
                    f"rank {rank} holds another run than rank 0: {', '.join(named)} differ"
                )
        # In one piece: print writes the line's end apart, and another rank's line may come between.
        sys.stdout.write(f"rank {trainer.global_rank} of {trainer.world_size} trains {self.run}\n")
        sys.stdout.flush()
