from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_study import make_study

from rmexp.cli import main
from rmexp.sweep.leases import Registration
from rmexp.views.status import seconds_left, step_of, summary, watch
from rmexp.views.study_view import view_study


def test_status_names_counts_best_and_running_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study, _ = make_study(tmp_path)
    main(["status", "synthetic", "--output-dir", str(tmp_path)])
    out = capsys.readouterr().out
    assert "17 of 20 done (complete 14, pruned 3), failed 2, running 1" in out
    assert f"best accuracy {study.best_value:.4f} (trial {study.best_trial.number})" in out
    running = study.get_trials()[-1]
    last = max(running.intermediate_values)
    row = next(line for line in out.splitlines() if "train" in line)
    assert f"{last} of {running.params['epochs']}" in row
    assert f"{running.intermediate_values[last]:.4f}" in row


def test_epochs_are_counted_over_all_seeds(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study, folder = make_study(tmp_path, trials=2)
    epochs = study.get_trials()[1].params["epochs"]
    assert view_study(study, folder).epochs_of(view_study(study, folder).trial(1)) == epochs
    study.set_user_attr("config", {"seeds": [0, 1, 2]})
    main(["status", "synthetic", "--output-dir", str(tmp_path)])
    assert f" of {3 * epochs} " in capsys.readouterr().out


def test_status_says_why_trials_failed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study, _ = make_study(tmp_path)
    failed = study.get_trials()[11]
    main(["status", "synthetic", "--output-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if f"trial {failed.number}: ValueError" in line]
    assert [cell.strip() for cell in row.split("│")[1:4]] == ["other", "2", "0"]
    assert "NaN</b> in row 7" in row


def test_the_step_comes_from_the_log(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=2)
    running = view_study(study, folder).trial(1)
    assert step_of(running) == "train"
    (folder.trial(1) / "log.txt").write_text("read\nrate\na warning of some library\n")
    assert step_of(running) == "rate"
    (folder.trial(1) / "log.txt").unlink()
    assert step_of(running) == ""


def test_time_left_needs_a_target_and_something_that_runs(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path)
    left = seconds_left(view_study(study, folder))
    mean = [
        t.duration.total_seconds()
        for t in study.get_trials()
        if t.state.name in ("COMPLETE", "PRUNED")
    ]
    assert left == pytest.approx(3 * sum(mean) / len(mean))
    study.tell(19, 0.5)
    assert seconds_left(view_study(study, folder)) is None


def test_watch_tells_each_change_once_and_ends_at_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study, folder = make_study(tmp_path, trials=3)
    study.set_user_attr("target", 3)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            study.tell(2, 0.99)

    watch(study, folder, sleep=sleep)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert "2 of 3 done" in lines[0]
    assert "best accuracy 0.9900 (trial 2)" in lines[1]


def test_trials_of_a_dead_controller_are_not_called_running(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path)
    running = [t for t in study.get_trials() if t.state.name == "RUNNING"]
    assert running
    registration = Registration(study, folder.locks)
    for trial in running:
        study._storage.set_trial_user_attr(trial._trial_id, "controller", registration.id)
    with registration.held(60):
        assert view_study(study, folder).counts()["running"] == len(running)
    view = view_study(study, folder)
    assert view.counts()["running"] == 0
    assert view.counts()["interrupted"] == len(running)
    assert "the same command goes on" in summary(view)
    assert seconds_left(view) is None


def test_a_rerun_of_a_running_trial_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path)
    with pytest.raises(SystemExit):
        main(["rerun", "synthetic", "--trial", "19", "--output-dir", str(tmp_path)])
    assert "--trial 19: study 'synthetic' knows it as running" in capsys.readouterr().err
