from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from synthetic_study import SPACE, add_test_result, make_study

from rmexp.cli import main
from rmexp.statistics import Interval
from rmexp.sweep.confirm import Confirmation, ConfirmedTrial
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import TrialRecord, write_json
from rmexp.views.figures import study_pictures
from rmexp.views.report import study_report
from rmexp.views.study_view import view_study


def embedded(html: str, id: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{id}">(.*?)</script>', html, re.S)
    assert found, id
    return json.loads(found[1])


def numbers(values: Any) -> list:
    """Plotly writes arrays as lists or as typed base64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return list(values)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory):
    study, folder = make_study(tmp_path_factory.mktemp("report"))
    add_test_result(folder, study.best_trial.number)
    return study, folder, study_report(study, folder)


def test_the_page_needs_nothing_else(reported) -> None:
    _, _, html = reported
    assert html.count("plotly.js v") == 1
    outside = html[: html.index("plotly.js v")] + html[html.rindex('id="figures"') :]
    assert not re.search(r'(?:src|href)="(?!#|data:)', outside)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_states_parameters_and_objectives_are_those_of_the_storage(reported) -> None:
    study, _, html = reported
    data = embedded(html, "data")
    trials = study.get_trials()
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    assert len(data["trials"]) == len(trials) == 20
    for shown, trial in zip(data["trials"], trials, strict=True):
        assert shown["state"] == words[trial.state.name]
        assert shown["params"] == trial.params
        assert shown["values"] == (trial.values if trial.state.name == "COMPLETE" else [])
        assert shown["curve"] == {str(e): v for e, v in trial.intermediate_values.items()}
    assert data["best"] == [study.best_trial.number]
    for word in words.values():
        assert data["counts"][word] == [words[t.state.name] for t in trials].count(word)
    assert all(data["counts"][word] for word in words.values())


def test_the_numbers_are_those_of_the_trial_records(reported) -> None:
    _, folder, html = reported
    for shown in embedded(html, "data")["trials"]:
        if shown["state"] == "complete":
            record = TrialRecord.read(folder.trial(shown["number"]))
            assert shown["values"] == [record.objective]
            assert {k: record.config[k] for k in SPACE} == shown["params"]


def test_every_picture_has_data_from_twenty_trials(reported) -> None:
    study, _, html = reported
    figures = embedded(html, "figures")
    assert set(figures) == {
        "plot-history",
        "plot-importance",
        "plot-parallel",
        "plot-gamma-r",
        "plot-learning_rate-epochs",
        "plot-curves",
    }
    complete = [t for t in study.get_trials() if t.state.name == "COMPLETE"]
    history = figures["plot-history"]["data"][0]
    assert numbers(history["y"]) == [t.value for t in complete]
    points = figures["plot-gamma-r"]["data"][0]
    # The best is drawn last, on top of points in the same place.
    drawn = sorted(complete, key=lambda t: t.value)
    assert numbers(points["x"]) == [t.params["gamma"] for t in drawn]
    assert numbers(points["y"]) == [t.params["r"] for t in drawn]
    assert numbers(points["marker"]["color"]) == [t.value for t in drawn]
    importance = optuna.importance.get_param_importances(study)
    bars = figures["plot-importance"]["data"][0]
    shown = dict(zip(bars["y"], numbers(bars["x"]), strict=True))
    assert shown == pytest.approx(importance)
    lines = [t for t in figures["plot-parallel"]["data"] if t.get("mode") == "lines"]
    shown = sorted([dict(line["customdata"])["accuracy"] for line in lines], key=float)
    wanted = sorted(t.value for t in complete)
    assert [float(v) for v in shown] == pytest.approx(wanted, rel=5e-3)
    assert {name for name, _ in lines[0]["customdata"]} == {*SPACE, "accuracy"}
    assert len({line["line"]["color"] for line in lines}) > 5
    curves = {c["meta"]["trial"]: c for c in figures["plot-curves"]["data"]}
    for trial in study.get_trials():
        assert numbers(curves[trial.number]["y"]) == list(trial.intermediate_values.values())
    assert {c["name"] for c in curves.values()} == {"complete", "pruned", "failed", "running"}


def test_what_a_trial_says_cannot_become_html(reported) -> None:
    html = reported[2]
    assert "&lt;b&gt;NaN&lt;/b&gt; in row 7 &amp; more" in html
    assert "<b>NaN" not in html


def test_the_best_trial_is_shown_with_its_test_accuracy(reported) -> None:
    study, _, html = reported
    assert f"Trial {study.best_trial.number}: accuracy {study.best_value:.4f}" in html
    assert "Test accuracy 0.700 (95% interval 0.650 to 0.750, 120 pairs" in html
    assert "longer 0.450, shorter 0.550, majority side 0.520" in html


def test_a_best_trial_below_a_length_baseline_says_so(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path)
    add_test_result(folder, study.best_trial.number, accuracy=0.4)
    html = study_report(study, folder)
    assert "accuracy BELOW the better length baseline (&quot;always prefer the shorter" in html
    assert "by -0.150 (95% interval -0.200 to -0.100)" in html


def test_several_objectives_show_their_front(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, objectives=2)
    html = study_report(study, folder)
    data, figures = embedded(html, "data"), embedded(html, "figures")
    assert data["best"] == sorted(t.number for t in study.best_trials)
    drawn = [sorted(numbers(trace["x"])) for trace in figures["plot-front"]["data"]]
    assert sorted(t.values[0] for t in study.best_trials) in drawn


def test_a_study_without_a_complete_trial_has_a_report_that_says_so(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=1)
    html = study_report(study, folder)
    assert "needs 1 complete trials, there are 0" in html
    assert embedded(html, "data")["best"] == []


def test_the_confirmation_is_shown(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=6)
    interval = Interval(0.7, 0.65, 0.75, 0.95)
    ranking = (
        ConfirmedTrial(2, 0.8, interval, (0.7, 0.7), 0.7, None, ()),
        ConfirmedTrial(0, 0.9, interval, (0.69, 0.7), 0.7, Interval(0.01, -0.02, 0.03, 0.95), (2,)),
    )
    confirmation = Confirmation(study.study_name, (1000, 1001), 50, ranking)
    write_json(folder.root / "confirmation.json", confirmation.to_plain())
    html = study_report(study, folder)
    assert "not separable from trial 2" in html
    assert embedded(html, "data")["confirmation"]["ranking"][1]["number"] == 0


def test_the_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_study(tmp_path, trials=5)
    main(["report", "synthetic", "--output-dir", str(tmp_path)])
    path = StudyFolder.of(tmp_path, "synthetic").root / "report.html"
    assert str(path) in capsys.readouterr().out
    assert embedded(path.read_text(), "data")["study"] == "synthetic"
    with pytest.raises(SystemExit) as stopped:
        main(["report", "synthetic", "--output-dir", str(tmp_path), "--out", "/nowhere/x.html"])
    assert stopped.value.code == 2


def test_what_a_warm_start_took_from_others_is_in_no_picture(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path)
    mine = [t for t in study.get_trials() if t.state == TrialState.COMPLETE]
    study.add_trial(
        optuna.trial.create_trial(
            value=99.0,
            params=mine[0].params,
            distributions=mine[0].distributions,
            user_attrs={"warm_start": "other/0"},
        )
    )
    pictures = {p.id: p.figure for p in study_pictures(study, view_study(study, folder))}
    points, best = pictures["history"].data[:2]
    assert list(points.x) == [t.number for t in mine]
    assert max(best.y) == max(t.value for t in mine)
    lines = [trace for trace in pictures["parallel"].data if trace.mode == "lines"]
    assert len(lines) == len(mine)


def test_a_study_with_guards_is_reported(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, guarded=True)
    pictures = {p.id: p for p in study_pictures(study, view_study(study, folder))}
    parallel = pictures["parallel"].figure
    lines = [t for t in parallel.data if t.mode == "lines" and t.customdata]
    complete = [t for t in study.get_trials() if t.state == TrialState.COMPLETE]
    assert len(lines) == len(complete)
    assert len({line.line.color for line in lines}) > 1
    assert "Infeasible" in study_report(study, folder)
