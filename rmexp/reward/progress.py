"""How far a training run is."""

from __future__ import annotations

from collections.abc import Callable
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
