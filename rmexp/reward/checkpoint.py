"""Checkpoints within an epoch, so that a killed run goes on where it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

_NAME = "last.ckpt"


class KeepLast(pl.Callback):
    """Write ``last.ckpt`` every so many optimiser steps.

    Never behind an epoch's last batch: the epoch's validation and report stand between that and
    the next epoch, and a resumed run must not miss them.

    Args:
        folder: where it lies.
        every: steps between two checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Save where it is time; Lightning writes to the side and renames."""
        last = batch_index + 1 >= trainer.num_training_batches
        if not last and trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.folder / _NAME)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from, None where there is none."""
    path = folder / _NAME
    return path if path.exists() else None


def remove_checkpoints(folder: Path) -> None:
    """A finished run needs none."""
    shutil.rmtree(folder, ignore_errors=True)
