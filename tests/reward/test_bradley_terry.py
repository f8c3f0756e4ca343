from __future__ import annotations

import numpy as np
import pytest
import torch

from rmexp.reward.losses import bradley_terry_loss


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


CHOSEN = torch.tensor([1.0, -0.5, 2.0])
REJECTED = torch.tensor([0.0, 0.5, 1.5])
DELTA = np.array([1.0, -1.0, 0.5])


def test_plain_is_the_mean_negative_log_sigmoid():
    loss = bradley_terry_loss(CHOSEN, REJECTED).item()
    assert loss == pytest.approx(-log_sigmoid(DELTA).mean(), abs=1e-6)


def test_margin_moves_the_difference():
    margin = np.array([0.2, 0.0, 1.0])
    loss = bradley_terry_loss(CHOSEN, REJECTED, margin=torch.tensor(margin)).item()
    assert loss == pytest.approx(-log_sigmoid(DELTA - margin).mean(), abs=1e-6)
    assert bradley_terry_loss(CHOSEN, REJECTED, margin=0.3).item() == pytest.approx(
        -log_sigmoid(DELTA - 0.3).mean(), abs=1e-6
    )


def test_soft_targets_and_smoothing():
    target = np.array([1.0, 0.5, 0.25])
    t = target * 0.9 + (1 - target) * 0.1
    expected = -(t * log_sigmoid(DELTA) + (1 - t) * log_sigmoid(-DELTA)).mean()
    loss = bradley_terry_loss(CHOSEN, REJECTED, target=torch.tensor(target), label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_half_target_pulls_the_rewards_together():
    chosen = torch.tensor([3.0], requires_grad=True)
    bradley_terry_loss(chosen, torch.tensor([0.0]), target=0.5).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() > 0


def test_weights_divide_by_their_sum():
    weight = np.array([2.0, 0.0, 1.0])
    loss = bradley_terry_loss(CHOSEN, REJECTED, weight=torch.tensor(weight)).item()
    assert loss == pytest.approx((-log_sigmoid(DELTA) * weight).sum() / 3.0, abs=1e-6)


def test_centering_adds_the_squared_sum():
    loss = bradley_terry_loss(CHOSEN, REJECTED, center_coefficient=0.5).item()
    total = (CHOSEN + REJECTED).numpy()
    assert loss == pytest.approx(-log_sigmoid(DELTA).mean() + 0.5 * (total**2).mean(), abs=1e-5)


def test_it_computes_in_float32_and_survives_large_differences():
    loss = bradley_terry_loss(
        torch.tensor([-300.0], dtype=torch.bfloat16), torch.tensor([300.0], dtype=torch.bfloat16)
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(600.0)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.5}, {"center_coefficient": -1.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]):
    with pytest.raises(ValueError, match="use"):
        bradley_terry_loss(CHOSEN, REJECTED, **options)
