"""Checkpoints within an epoch, so that a killed run goes on where it was."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from rmexp.backbone.parts import TABLE_OF_CONTENTS, read_parts, tensors
from rmexp.errors import UserError
from rmexp.reward.checkpoint_files import (
    NAME,
    NEXT,
    PREVIOUS,
    remove_checkpoints,
    write_made_of,
)


class KeepLast(pl.Callback):
    """Write ``last.ckpt`` every so many optimiser steps: a file, or a folder of every rank's part.

    Never behind an epoch's last batch: the epoch's validation and report stand between that and
    the next epoch, and a resumed run must not miss them. One that is due there is written a step
    later, in the next epoch.

    Args:
        folder: where it lies.
        every: steps between two checkpoints.
        made_of: plain data from which the model can be built again, and which tells whose the
            checkpoint is; written beside it.
    """

    def __init__(self, folder: Path, every: int, made_of: Mapping[str, Any]) -> None:
        self.folder = folder
        self.every = every
        self.made_of = made_of
        self._saved_at = 0

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Write down what the checkpoints belong to."""
        self._saved_at = trainer.global_step
        if trainer.is_global_zero:
            if not trainer.global_step:
                # What another run has left must not be taken for this one's.
                remove_checkpoints(self.folder)
            write_made_of(self.folder, self.made_of)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Save where it is time; the old checkpoint stays until the new one is whole."""
        last = batch_index + 1 >= trainer.num_training_batches
        within_step = (batch_index + 1) % trainer.accumulate_grad_batches
        if last or within_step or trainer.global_step - self._saved_at < self.every:
            return
        self._saved_at = trainer.global_step
        if trainer.is_global_zero:
            _remove(self.folder / NEXT)
        trainer.strategy.barrier()
        trainer.save_checkpoint(self.folder / NEXT)
        if trainer.is_global_zero:
            self._replace()
        trainer.strategy.barrier()

    def _replace(self) -> None:
        new, kept, old = (self.folder / name for name in (NEXT, NAME, PREVIOUS))
        if new.is_file() and not kept.is_dir():
            new.replace(kept)
            return
        # Folders cannot be replaced in one step: at any moment one of the two is whole.
        if kept.exists():
            _remove(old)
            kept.rename(old)
        new.rename(kept)
        _remove(old)


def why_never(every: int, steps_an_epoch: int, epochs: int) -> str | None:
    """Why :class:`KeepLast` finds no place for a single checkpoint; None where it finds one."""
    steps = epochs * steps_an_epoch
    if steps_an_epoch > 1 and every < steps:
        return None
    use = "there is no place for one with one step an epoch"
    if steps_an_epoch > 1:
        use = f"use {steps - 1} or less"
    return (
        f"checkpoint_steps={every}: a run of {epochs} x {steps_an_epoch} steps writes no "
        f"checkpoint; {use}"
    )


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint of a run: a file, or a folder of several ranks' parts."""
    return (path / TABLE_OF_CONTENTS).is_file() or (path.is_file() and path.suffix == ".ckpt")


def checkpoint_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, each in one piece on the CPU, by their names in the module.

    Parts that several ranks wrote are put together by this one process.

    Raises:
        UserError: it cannot be read, or holds anything but tensors and plain data.
    """
    try:
        if path.is_file():
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return dict(found["state_dict"])
        return _joined_parts(path)
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a checkpoint of rmexp: {error}") from error


def _joined_parts(path: Path) -> dict[str, torch.Tensor]:
    whole = {n: t for n, t in tensors(path).items() if not n.startswith("optimizer")}
    read_parts(whole, path, alone=True)
    # The first part of a name is the strategy's own word for the model.
    return {key.split(".", 1)[1]: weight for key, weight in whole.items()}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
