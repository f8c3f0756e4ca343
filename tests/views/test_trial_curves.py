"""The curves on a trial's page."""

from __future__ import annotations

from rmexp.views.figures import trial_curves


def test_a_line_ends_with_its_seed() -> None:
    rows = [(1, 3, 0.5), (2, 3, 0.6), (3, 1, 0.4), (4, 1, 0.7)]
    figure = trial_curves([{"epoch": e, "seed": s, "train/loss": v} for e, s, v in rows])
    (line,) = figure.data
    assert line.name == "train/loss"
    assert list(line.x) == [1, 2, None, 3, 4]
    assert list(line.y) == [0.5, 0.6, None, 0.4, 0.7]
    assert figure.layout.xaxis.title.text == "epoch, counted on over the seeds"


def test_a_trial_of_one_seed_is_one_line() -> None:
    figure = trial_curves([{"epoch": e, "step": 4 * e, "train/loss": 0.5} for e in (1, 2)])
    (line,) = figure.data
    assert list(line.x) == [1, 2]
    assert figure.layout.xaxis.title.text == "epoch"
