"""The test part: measured once, for a trial that the search has chosen without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmexp.errors import DriftError, UserError
from rmexp.preferences import pairs_fingerprint
from rmexp.trial import reading
from rmexp.trial.record import MODEL, TrialRecord, write_json
from rmexp.trial.schema import TrialConfig

FILE_NAME = "test.json"


def test_pairs(config: TrialConfig) -> list[Any]:
    """The judged test pairs of a config."""
    splits = reading.split_pairs(reading.read_pairs(config.data).pairs, config.data.split)
    return list(splits.test)


def measure_on_test(directory: Path, model: Path | None = None) -> dict[str, Any]:
    """Score the trial's saved model on its test pairs, or read what was measured before.

    Args:
        directory: of the trial.
        model: another folder than the trial's own that holds its model.

    Returns:
        The evaluation as plain data, as ``test.json`` holds it.

    Raises:
        DriftError: the test pairs are no longer those of the trial.
        UserError: no trained model is kept for this trial, or no test pair has a preference.
    """
    path = directory / FILE_NAME
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    record = TrialRecord.read(directory)
    model = model or directory / MODEL
    if not model.is_dir():
        study, number = record.identity.study, record.identity.number
        again = f"rmexp rerun {study} --trial {number} makes it again"
        raise UserError(f"{directory}: no trained model is kept here (sweep.keep); {again}")
    pairs = test_pairs(record.trial_config)
    if pairs_fingerprint(pairs).hexdigest != record.fingerprints["test"]["hexdigest"]:
        raise DriftError(f"{directory}: the test pairs have changed since the trial ran")
    judged = [pair for pair in pairs if pair.preference is not None]
    if not judged:
        raise UserError("data: no test pair has a human preference, so there is no test accuracy")

    from rmexp.evaluation.preferences import evaluate_preferences
    from rmexp.reward.model import load_reward_model

    evaluation = evaluate_preferences(load_reward_model(model), judged)
    plain = {"metrics": evaluation.metrics(), **evaluation.to_plain()}
    write_json(path, plain)
    return plain
