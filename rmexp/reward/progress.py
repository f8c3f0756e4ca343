"""How far a training run is, and what its user should know."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl


class StepProgress(pl.Callback):
    """Tells the optimiser steps done, and those of the whole run, on rank 0."""

    def __init__(self, steps: int, progress: Callable[[int, int], None]) -> None:
        self._steps, self._progress = steps, progress

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Tell."""
        if trainer.is_global_zero:
            self._progress(trainer.global_step, self._steps)


class Warnings(pl.Callback):
    """Says before the first step, once and not on each rank, where a run is not as it was asked.

    On the standard error: the terminal of a single run, the log of a sweep's trial.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Say it."""
        if trainer.is_global_zero:
            sys.stderr.write("".join(f"rmexp: {line}\n" for line in self._lines))
