from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmexp.sweep.rerun import rerun
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import trial_config


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    return {
        "r": 1,
        "epochs": 3,
        "data": {"limit": 40},
        "rules": {"ids": ["answers_alarming_wording", "no_invented_intent"]},
        "rater": {"kind": "custom", "target": "word_rater:WordRater"},
        "model": {"name": "tiny"},
        "trainer": {"threads": 1},
        "tracker": {"kind": "none"},
        "cache_dir": str(tmp_path / "cache"),
    }


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
