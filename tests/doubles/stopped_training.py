"""Training that ends by an error at a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rmexp.reward.module import RewardModule


@contextmanager
def stopping_at(
    step: int,
    error: Exception,
    where: Callable[[RewardModule], bool] = lambda module: True,
) -> Iterator[None]:
    """Raise the error in place of an optimiser step; ``where`` is asked at that step."""
    original = RewardModule.training_step

    def stopping(self: RewardModule, batch: Any, batch_index: int) -> Any:
        if self.global_step == step and where(self):
            raise error
        return original(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModule, "training_step", stopping)
        yield
