from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from quick_config import quick_config

from rmexp.errors import UserError
from rmexp.sweep.rerun import (
    TOLERANCE,
    Rerun,
    compare_records,
    measure_kept,
    refuse_without_record,
    rerun,
    tolerance_of,
)
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import TrainerConfig, trial_config


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    return quick_config(tmp_path, epochs=3)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    made = StudyFolder.of(tmp_path, "s")
    made.make()
    return made


def trial_of(
    folder: StudyFolder,
    plain: dict[str, Any],
    report: Callable[[int, float], bool] | None = None,
) -> TrialRecord:
    identity = TrialIdentity("s", 0)
    config = trial_config(plain)
    return run_trial(config, directory=folder.trial(0), identity=identity, report=report)


def test_a_pruned_trial_stops_again_where_it_did(folder: StudyFolder, plain: dict) -> None:
    old = trial_of(folder, plain, report=lambda epoch, value: epoch == 2)
    assert old.state == "pruned"
    result = rerun(folder, 0)
    assert (result.new.state, result.new.reason) == ("pruned", old.reason)
    assert result.unequal == {}
    assert result.equal
    assert result.verdict.startswith("equal to the last digit: objective and ")
    assert result.verdict.endswith("pruned after epoch 2 both times")
    # Each epoch of both is compared, not the objective alone.
    assert result.compared > 2 * len([n for n in old.history[0] if n.startswith("validation/")])
    assert not (result.directory / MODEL).exists()


def test_an_epoch_that_came_out_otherwise_is_named(folder: StudyFolder, plain: dict) -> None:
    old = trial_of(folder, plain, report=lambda epoch, value: epoch == 2)
    old.history[0]["validation/loss"] += 1e-9
    old.write(folder.trial(0))
    result = rerun(folder, 0)
    assert list(result.unequal) == ["validation/loss after epoch 1"]
    assert not result.equal
    assert result.verdict.startswith("NOT equal")


@pytest.mark.parametrize(
    ("trainer", "exact"),
    [
        ({"accelerator": "cpu", "threads": 2}, True),
        ({"accelerator": "cpu", "threads": 2, "deterministic": False}, True),
        ({"accelerator": "cpu"}, False),  # threads are not known
        ({"accelerator": "gpu"}, True),
        ({"accelerator": "gpu", "deterministic": False}, False),
        ({"accelerator": "mps"}, False),
    ],
)
def test_every_digit_counts_where_the_device_repeats_them(trainer: dict, exact: bool) -> None:
    assert tolerance_of(TrainerConfig(**trainer)) == (0.0 if exact else TOLERANCE)


def _record(accuracy: float, loss: float, kept: float = 100.0) -> TrialRecord:
    metrics = {"validation/accuracy": accuracy, "validation/loss": loss, "labels/kept": kept}
    config = {"cache_dir": "c", "trainer": {"accelerator": "gpu", "deterministic": False}}
    history = [{"epoch": 1, "train/loss": loss, "train/tokens_per_second": 1e3 * loss}]
    identity = TrialIdentity("s", 0)
    return TrialRecord("complete", "", accuracy, config, identity, metrics=metrics, history=history)


OLD = _record(0.80, 5.0)


@pytest.mark.parametrize(
    ("new", "tolerance", "unequal"),
    [
        (OLD, 0.0, set()),
        (_record(0.80, 5.0 + 1e-17), 0.0, set()),  # the same float
        (
            _record(0.80, 5.0 + 1e-14),
            0.0,
            {"validation/loss", "train/loss after epoch 1"},
        ),
        # 0.02 of 1 for a share, of the number for a larger one.
        (_record(0.815, 5.09), 0.02, set()),
        (_record(0.83, 5.09), 0.02, {"objective", "validation/accuracy"}),
        (_record(0.80, 5.2), 0.02, {"validation/loss", "train/loss after epoch 1"}),
        (_record(0.80, 5.0, kept=99.0), 0.02, {"labels/kept"}),
        (_record(math.nan, 5.0), 0.02, {"objective", "validation/accuracy"}),
    ],
)
def test_numbers_are_judged_within_the_tolerance(
    new: TrialRecord, tolerance: float, unequal: set[str]
) -> None:
    compared, found = compare_records(OLD, new, tolerance)
    assert compared == 4
    assert set(found) == unequal


def test_equal_nans_are_equal() -> None:
    assert compare_records(_record(math.nan, 1.0), _record(math.nan, 1.0), 0.0) == (4, {})


def test_the_verdict_says_within_what() -> None:
    result = Rerun(OLD, OLD, Path(), [], {}, 4, None, tolerance=0.02)
    assert result.verdict.startswith("equal within 0.02: objective and 4 metrics; weights not")
    assert "trainer.accelerator=gpu" in result.verdict
    other = Rerun(OLD, OLD, Path(), [], {"objective": (0.8, 0.9)}, 4, None, tolerance=0.02)
    assert other.verdict.startswith("NOT equal within 0.02")


def test_the_best_trials_model_may_be_that_of_its_rerun(folder: StudyFolder, plain: dict) -> None:
    trial_of(folder, {**plain, "epochs": 1})
    own = folder.trial(0)
    shutil.rmtree(own / MODEL)
    with pytest.raises(UserError, match="rmexp rerun s --trial 0 makes it again"):
        measure_kept(folder, 0)
    again = rerun(folder, 0)
    assert again.equal
    assert again.same_weights is None
    record = TrialRecord.read(again.directory)
    replace(record, metrics={**record.metrics, "validation/loss": 9.0}).write(again.directory)
    with pytest.raises(UserError, match=r"came out otherwise \(validation/loss: .*9\.0 now\)"):
        measure_kept(folder, 0)
    record.write(again.directory)
    measured = measure_kept(folder, 0)
    assert 0 <= measured["metrics"]["accuracy"] <= 1
    # With the trial, so that its report and page find it, and measured once.
    shutil.rmtree(again.directory)
    assert measure_kept(folder, 0) == json.loads((own / "test.json").read_text())


@pytest.mark.parametrize(
    ("attrs", "state", "told"),
    [
        ({}, "RUNNING", "as running; it left no record.json to run again; wait for its end: rmexp"),
        (
            {"failure": "lost_worker", "reason": "killed by signal 9"},
            "FAIL",
            "as failed: killed by signal 9; .*; give another --trial; .* sweep.enqueue",
        ),
        ({"reason": "gone", "retry": True}, "FAIL", "as failed: gone; .*own command runs its"),
        ({"failure": "interrupted"}, "FAIL", "as interrupted; .*own command runs its point again"),
    ],
)
def test_a_trial_without_a_record_is_told_as_the_study_knows_it(
    folder: StudyFolder, attrs: dict, state: str, told: str
) -> None:
    study = optuna.create_study(study_name="s")
    trial = study.ask()
    for name, value in attrs.items():
        trial.set_user_attr(name, value)
    if state == "FAIL":
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(UserError, match=f"--trial 0: study 's' knows it {told}"):
        refuse_without_record(study, folder, 0)
    # Another has taken up its point.
    study.ask().set_user_attr("retry_of", 0)
    with pytest.raises(UserError, match="run again as trial 1: give --trial 1"):
        refuse_without_record(study, folder, 0)
