"""Checkpoints hold weights and optimiser state: they stay where something may go on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_doubles import FakeExecutor, controller_of

from rmexp.reward.losses import NonFiniteError
from rmexp.sweep.job import TrialJob


def checkpoint(directory: Path) -> Path:
    return directory / "checkpoints" / "last.ckpt"


def left(tmp_path: Path) -> list[str]:
    """Numbers of the trials that still have checkpoints."""
    return sorted(p.parent.name for p in (tmp_path / "studies/s/trials").glob("*/checkpoints"))


class Leaving(FakeExecutor):
    """Every trial leaves a checkpoint, as one does that is killed; ``fates`` say how it ends."""

    def __init__(self, *fates: Any, **options: Any) -> None:
        super().__init__(self.end, **{"slots": 1, **options})
        self.fates = list(fates)
        self.seen: list[tuple[int, bool]] = []

    def end(self, job: TrialJob) -> Any:
        if job.resume_from is not None:
            self.seen.append((int(job.resume_from.name), checkpoint(job.resume_from).exists()))
        fate = self.fates.pop(0)
        if fate == "lost at once":
            return "worker lost"
        checkpoint(job.directory).parent.mkdir(parents=True)
        checkpoint(job.directory).touch()
        return fate


def test_those_of_a_lost_trial_stay_until_its_retry_has_ended(tmp_path: Path) -> None:
    executor = Leaving("worker lost", 0.5, 0.25)
    controller, _, _ = controller_of(tmp_path, executor, trials=2)
    controller.run()
    assert executor.seen == [(0, True)]
    assert left(tmp_path) == []


def test_those_of_a_trial_that_failed_for_good_are_removed(tmp_path: Path) -> None:
    executor = Leaving(NonFiniteError("the loss is NaN"), "worker lost", "worker lost", 0.5)
    controller, _, _ = controller_of(tmp_path, executor, trials=1)
    controller.run()
    assert len(executor.submitted) == 4
    assert left(tmp_path) == []


def test_those_of_a_pruned_trial_are_removed(tmp_path: Path) -> None:
    executor = Leaving(*[[0.5, 0.5]] * 2, *[[0.1, 0.1]] * 2)
    pruner = {"kind": "median", "startup_trials": 1}
    controller, study, _ = controller_of(tmp_path, executor, trials=4, pruner=pruner)
    controller.run()
    assert "PRUNED" in {t.state.name for t in study.get_trials()}
    assert left(tmp_path) == []


def test_a_retry_that_was_lost_at_once_costs_no_progress(tmp_path: Path) -> None:
    executor = Leaving("worker lost", "lost at once", 0.5)
    controller, _, _ = controller_of(tmp_path, executor, trials=1, retry={"lost_worker": 2})
    controller.run()
    assert executor.seen == [(0, True), (0, True)]
    assert left(tmp_path) == []


def test_those_of_an_interrupted_sweep_are_there_for_the_next(tmp_path: Path) -> None:
    executor = Leaving("worker lost", crash_after=1)
    controller, _, _ = controller_of(tmp_path, executor, trials=1)
    with pytest.raises(KeyboardInterrupt):
        controller.run()
    assert left(tmp_path) == ["0000"]
    again = Leaving(0.5)
    controller, _, _ = controller_of(tmp_path, again, trials=1)
    controller.run()
    assert again.seen == [(0, True)]
    assert left(tmp_path) == []


def test_what_dead_controllers_have_left_is_removed(tmp_path: Path) -> None:
    controller, _, _ = controller_of(tmp_path, FakeExecutor(), trials=2)
    controller.run()
    checkpoint(tmp_path / "studies/s/trials/0001").parent.mkdir()
    controller, _, _ = controller_of(tmp_path, FakeExecutor(), trials=3)
    controller.run()
    assert left(tmp_path) == []
