from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmexp.errors import UserError
from rmexp.trial.record import TrialIdentity, TrialRecord, write_json


def _record() -> TrialRecord:
    return TrialRecord(
        state="complete",
        reason="",
        objective=0.1 + 0.2,
        config={"gamma": 1.0},
        identity=TrialIdentity("study", 3),
        metrics={"validation/accuracy": 1 / 3},
    )


def test_a_record_reads_back_to_the_last_digit(tmp_path: Path) -> None:
    record = _record()
    record.write(tmp_path)
    assert TrialRecord.read(tmp_path) == record


def test_a_missing_or_foreign_record_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record\.json: no record"):
        TrialRecord.read(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(UserError, match=r"record\.json:1"):
        TrialRecord.read(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="another format"):
        TrialRecord.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_run_ids_are_the_same_for_the_same_attempt_and_differ_between_attempts() -> None:
    assert TrialIdentity("s", 1).run_id == TrialIdentity("s", 1).run_id
    ids = {
        TrialIdentity("s", 1).run_id,
        TrialIdentity("s", 2).run_id,
        TrialIdentity("t", 1).run_id,
        TrialIdentity("s", 1, attempt=1).run_id,
        TrialIdentity("s", 1, job_type="rerun").run_id,
    }
    assert len(ids) == 5
