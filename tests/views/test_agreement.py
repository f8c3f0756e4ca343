"""W&B's offline records, the report and Optuna's storage say the same of every trial."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import wandb_files

from rmexp.sweep.study import StudyFolder, load_study
from rmexp.views.figures import study_pictures
from rmexp.views.report import study_report
from rmexp.views.server import make_app
from rmexp.views.study_view import view_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
KEYS = ("gamma", "r", "learning_rate", "epochs")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[optuna.Study, StudyFolder]:
    """A fresh study of twenty cheap trials: complete, pruned, one that failed, one killed."""
    where = tmp_path_factory.mktemp("agreement")
    (where / "fates").mkdir()
    overrides = [
        "study=mixed",
        "model=tiny",
        "data.limit=60",
        "trainer.threads=1",
        "executor.slots=2",
        "rater=custom",
        "rater.target=fateful_rater:FatefulRater",
        "rules.ids=[answers_alarming_wording,no_invented_intent,offers_safe_alternative]",
        "tracker.mode=offline",
        "gamma=choice(0,0.5,1,2)",
        "r=choice(1,2,3)",
        "learning_rate=tag(log,interval(1e-4,1e-2))",
        "epochs=range(1,4)",
        "sweep.trials=18",
        "sweep.pruner.kind=percentile",
        "sweep.pruner.startup_trials=3",
    ]
    places = [
        f"+rater.options.folder={where / 'fates'}",
        f"output_dir={where / 'outputs'}",
        f"cache_dir={where / 'cache'}",
    ]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "doubles")])
    done = subprocess.run(
        [sys.executable, "-m", "rmexp", "train", "-m", *overrides, *places],
        cwd=where,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return load_study(where / "outputs", "mixed"), StudyFolder.of(where / "outputs", "mixed")


def runs_of(directory: Path) -> list[dict[str, Any]]:
    """The offline runs of a trial, in the order in which they were begun."""
    files = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    return [wandb_files.read_run(path) for path in files]


def test_the_study_is_a_mixture(made) -> None:
    study, _ = made
    states = [t.state.name for t in study.get_trials()]
    assert len(states) == 20
    assert states.count("FAIL") == 2
    assert states.count("PRUNED") >= 1
    assert states.count("COMPLETE") >= 4


def test_wandb_says_what_the_storage_says(made) -> None:
    study, folder = made
    for trial in study.get_trials():
        if "duplicate_of" in trial.user_attrs:
            continue
        runs = runs_of(folder.trial(trial.number))
        run = runs[-1]
        assert {r["id"] for r in runs if "id" in r} == {
            f"mixed-trial-{trial.number}-{trial.user_attrs.get('attempt', 0)}"
        }
        assert run["group"] == "mixed"
        assert run["summary"]["state"] == NAMES[trial.state.name]
        assert run["summary"]["reason"] == trial.user_attrs["reason"]
        assert f"state:{NAMES[trial.state.name]}" in run["tags"]
        assert run["exit_code"] == (1 if trial.state.name == "FAIL" else 0)
        assert {key: run["config"][key] for key in KEYS} == trial.params
        if trial.state.name != "FAIL":
            assert run["summary"]["objective"] == trial.value
        curve = {
            row["epoch"]: row["validation/accuracy"]
            for row in run["history"]
            if "validation/accuracy" in row
        }
        assert curve == trial.intermediate_values


def test_the_killed_trial_got_its_end_from_the_controller(made) -> None:
    study, folder = made
    (killed,) = [t for t in study.get_trials() if t.user_attrs.get("failure") == "lost_worker"]
    first, second = runs_of(folder.trial(killed.number))
    # What the trial itself wrote may not even hold its id; the name of its file does.
    assert "state" not in first["summary"]
    assert first.get("id", second["id"]) == second["id"]
    files = folder.trial(killed.number).glob("wandb/offline-run-*/*.wandb")
    assert [path.stem for path in files] == [f"run-{second['id']}"] * 2
    assert second["summary"]["reason"] == "worker lost: killed by SIGKILL"
    again = [t for t in study.get_trials() if t.user_attrs.get("retry_of") == killed.number]
    assert [t.params for t in again] == [killed.params]


def test_the_report_says_what_the_storage_says(made) -> None:
    study, folder = made
    html = study_report(study, folder)
    embedded = re.search(r'id="data">(.*?)</script>', html, re.S)
    assert embedded
    told = {t["number"]: t for t in json.loads(embedded[1])["trials"]}
    for trial in study.get_trials():
        one = told[trial.number]
        assert one["state"] == NAMES[trial.state.name]
        assert one["params"] == trial.params
        assert one["values"] == (trial.values if trial.state.name == "COMPLETE" else [])
        assert one["reason"] == trial.user_attrs.get("reason", "")
        assert {int(e): v for e, v in one["curve"].items()} == trial.intermediate_values
    assert "the rater stumbled &lt;here&gt; &amp; now" in html


def test_the_controllers_run_was_written_at_the_end(made) -> None:
    study, folder = made
    run = wandb_files.run_of(folder.root / "controller")
    assert run["id"] == "mixed-controller"
    assert run["summary"]["best/trial"] == study.best_trial.number
    assert run["summary"]["best/accuracy"] == study.best_value
    rows = {row["trial"]: row for row in wandb_files.table_of(folder.root / "controller", "trials")}
    for trial in study.get_trials():
        row = rows[trial.number]
        assert row["state"] == NAMES[trial.state.name]
        assert {key: row[key] for key in KEYS} == trial.params
        assert row["accuracy"] == (trial.value if trial.state.name == "COMPLETE" else None)
    importance = wandb_files.table_of(folder.root / "controller", "importance")
    assert {row["parameter"] for row in importance} == set(KEYS)


def test_every_panel_has_data(made) -> None:
    study, folder = made
    view = view_study(study, folder)
    empty = [picture.id for picture in study_pictures(study, view) if picture.figure is None]
    assert not empty
    app = make_app(folder.root.parent.parent)
    for trial in view.of_state("complete"):
        page = _get(app, f"/study/mixed/trial/{trial.number}")
        for panel in ("params", "curves", "rules", "metrics", "pairs", "wrong", "config", "log"):
            start = page.index(f'id="{panel}"')
            card = page[start : page.index("</section>", start)]
            assert re.search(r"<td|<pre|class=\"picture\"", card), (trial.number, panel)
            assert "Nothing is stored" not in card
            assert "Empty." not in card


def _get(app: Any, path: str) -> str:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": ""}
    return b"".join(app(environ, lambda status, headers: None)).decode()
