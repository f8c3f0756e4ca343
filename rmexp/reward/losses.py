"""The Bradley-Terry loss and its variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


class NonFiniteError(ArithmeticError):
    """A loss or a score is NaN or infinite; the message names the rows.

    Attributes:
        rows: which of the scores asked for, where it is about scores.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


def pair_losses(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float | None = None,
    target: torch.Tensor | float | None = None,
    label_smoothing: float = 0.0,
    center_coefficient: float = 0.0,
) -> torch.Tensor:
    """The loss of each pair, not averaged: float32 ``[pairs]``; see bradley_terry_loss."""
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing}: use a value from 0 to below 0.5")
    if center_coefficient < 0.0:
        raise ValueError(f"center_coefficient={center_coefficient}: use 0 or more")
    chosen, rejected = chosen.float(), rejected.float()
    delta = chosen - rejected
    if margin is not None:
        delta = delta - margin
    probability = torch.ones_like(delta) if target is None else torch.as_tensor(target).to(delta)
    probability = probability * (1.0 - label_smoothing) + (1.0 - probability) * label_smoothing
    losses = -(probability * F.logsigmoid(delta) + (1.0 - probability) * F.logsigmoid(-delta))
    if center_coefficient:
        losses = losses + center_coefficient * (chosen + rejected).square()
    return losses


def bradley_terry_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float | None = None,
    target: torch.Tensor | float | None = None,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    center_coefficient: float = 0.0,
) -> torch.Tensor:
    r"""Negative log-likelihood of the preferences (shared method, section 8), in float32.

    With :math:`\delta = r_c - r_r - m` and the probability t that chosen is preferred:
    :math:`-t \log\sigma(\delta) - (1-t) \log\sigma(-\delta) + c\,(r_c + r_r)^2`,
    averaged over pairs by weight.

    Args:
        chosen: rewards ``[pairs]`` of the preferred responses.
        rejected: rewards ``[pairs]`` of the others.
        margin: how far apart they must be, ``[pairs]`` or one number.
        target: probability in [0, 1] that chosen is preferred (1 where None).
        weight: weight of each pair, ``[pairs]``; the loss is divided by their sum.
        label_smoothing: in [0, 0.5): t becomes t (1 - s) + (1 - t) s.
        center_coefficient: c, which keeps the rewards' mean near zero.

    Returns:
        A scalar.

    >>> round(bradley_terry_loss(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.6931
    """
    losses = pair_losses(chosen, rejected, margin, target, label_smoothing, center_coefficient)
    if weight is None:
        return losses.mean()
    weight = weight.to(losses)
    return (losses * weight).sum() / weight.sum()
