"""Options of the loss and the optimiser: plain data, light to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rmexp.errors import UserError

Schedule = Literal["linear", "constant"]


@dataclass(frozen=True)
class LossOptions:
    """The loss of a training run.

    Attributes:
        label_smoothing: in [0, 0.5).
        center_coefficient: weight of the squared sum of both rewards, 0 or more.
    """

    label_smoothing: float = 0.0
    center_coefficient: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 0.5:
            raise UserError(
                f"loss.label_smoothing={self.label_smoothing}: use a value from 0 to below 0.5"
            )
        if not (math.isfinite(self.center_coefficient) and self.center_coefficient >= 0):
            raise UserError(
                f"loss.center_coefficient={self.center_coefficient}: use a finite value from 0"
            )


@dataclass(frozen=True)
class OptimiserOptions:
    """AdamW and its schedule.

    Attributes:
        learning_rate: the highest rate.
        weight_decay: on matrices only.
        warmup_steps: steps of linear rise.
        schedule: ``linear`` decay to zero over the run after warm-up, or ``constant``.
        gradient_clip: largest norm of the whole gradient, None for no clipping.
    """

    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    warmup_steps: int = 10
    schedule: Schedule = "linear"
    gradient_clip: float | None = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate={self.learning_rate}: use a finite value above 0")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise UserError("weight_decay and warmup_steps must be 0 or more")
        if self.schedule not in ("linear", "constant"):
            raise UserError(f"schedule={self.schedule}: use linear or constant")
