from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from synthetic_study import make_study

from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.views.dashboard import dashboard_json
from rmexp.views.study_view import view_study

pytest.importorskip("wandb_workspaces")
GOLDEN = Path(__file__).parent / "golden_dashboard.json"


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_the_dry_run_writes_the_dashboard_without_an_account(tmp_path: Path) -> None:
    """After a wanted change: RMEXP_GOLDEN=write pytest tests/views/test_dashboard.py"""
    out = tmp_path / "dashboard.json"
    make_study(tmp_path, trials=6)
    main(["dashboard", "synthetic", "--output-dir", str(tmp_path), "--dry-run", "--out", str(out)])
    if os.environ.get("RMEXP_GOLDEN") == "write":
        GOLDEN.write_text(out.read_text())
    assert json.loads(out.read_text()) == json.loads(GOLDEN.read_text())


def test_it_holds_the_panels_that_a_study_needs(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=6)
    plain = dashboard_json(view_study(study, folder))
    for part in ("workspace", "report"):
        text = json.dumps(plain[part])
        for wanted in (
            "Parallel Coordinates Plot",
            "Parameter Importance",
            "Scatter Plot",
            "Run Comparer",
            "Run History Line Plot",
            "gamma",
            "validation/over_refusal_accuracy",
            '"synthetic"',
        ):
            assert wanted in text, (part, wanted)
    states = [s for s in ("complete", "pruned", "failed") if f"state:{s}" in json.dumps(plain)]
    assert states == ["complete", "pruned", "failed"]


def test_a_study_without_an_ended_trial_is_told(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=1)
    with pytest.raises(UserError, match="no trial has ended"):
        dashboard_json(view_study(study, folder))
