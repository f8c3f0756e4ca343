from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import wandb_files
from synthetic_study import make_study

from rmexp.errors import UserError
from rmexp.sweep.study import StudyFolder
from rmexp.views.controller_run import write_controller_run
from rmexp.views.study_view import view_study
from rmexp.views.sync import Synced, offline_runs, sync


class FakeWandb:
    """Takes ``wandb sync`` calls; refuses those whose path holds a word."""

    def __init__(self, refuse: str = "nothing"):
        self.calls: list[list[str]] = []
        self.refuse = refuse

    def __call__(self, words: Sequence[str]) -> tuple[int, str]:
        if self.refuse in words[-1]:
            return 1, "not logged in\n"
        self.calls.append(list(words))
        return 0, "done\n"


def _offline_run(folder: StudyFolder, number: int) -> Path:
    path = folder.trial(number) / "wandb" / f"offline-run-1-{number}" / f"run-{number}.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something")
    return path


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rmexp.views.sync.write_controller_run", lambda study, view: None)
    study, folder = make_study(tmp_path, trials=4)
    return study, folder, [_offline_run(folder, n) for n in range(4)]


def test_every_ended_run_is_uploaded_once(logged) -> None:
    study, folder, paths = logged
    runner = FakeWandb()
    # Trial 3 still runs.
    assert sync(study, folder, runner=runner) == Synced(3, 0, 1)
    assert runner.calls == [["sync", str(p.parent)] for p in paths[:3]]
    assert sync(study, folder, runner=runner) == Synced(0, 3, 1)
    assert len(runner.calls) == 3
    study.tell(3, 0.5)
    assert sync(study, folder, runner=runner) == Synced(1, 3, 0)


def test_a_run_that_has_grown_is_uploaded_again(logged) -> None:
    study, folder, paths = logged
    sync(study, folder, runner=FakeWandb())
    paths[0].write_bytes(b"something more")
    runner = FakeWandb()
    assert sync(study, folder, runner=runner) == Synced(1, 2, 1)
    assert runner.calls == [["sync", "--include-synced", str(paths[0].parent)]]


def test_the_two_parts_of_a_killed_trials_run_are_one_upload(logged) -> None:
    study, folder, paths = logged
    second = paths[0].parent.with_name("offline-run-2-0") / paths[0].name
    second.parent.mkdir()
    second.write_bytes(b"the end")
    runner = FakeWandb()
    assert sync(study, folder, runner=runner) == Synced(3, 0, 1)
    assert runner.calls[0] == ["sync", "--id", "0", str(paths[0].parent), str(second.parent)]
    assert sync(study, folder, runner=runner) == Synced(0, 3, 1)


def test_after_a_refusal_only_the_rest_is_uploaded(logged) -> None:
    study, folder, paths = logged
    first = FakeWandb(refuse=f"{1:04d}/wandb")
    with pytest.raises(UserError, match=r"refused 1 of 3 runs, the first with .*not logged in"):
        sync(study, folder, runner=first)
    assert len(first.calls) == 2
    second = FakeWandb()
    assert sync(study, folder, runner=second) == Synced(1, 2, 1)
    assert second.calls == [["sync", str(paths[1].parent)]]


def test_the_controller_run_says_what_the_storage_says(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=12)
    (folder.trial(study.best_trial.number) / "model" / "weights").write_bytes(b"w")
    view = view_study(study, folder)
    where = write_controller_run(study, view)
    assert where is not None
    run = wandb_files.run_of(where)
    assert run["id"] == "synthetic-controller"
    assert run["group"] == "synthetic"
    assert run["job_type"] == "controller"
    assert run["summary"]["best/trial"] == study.best_trial.number
    assert run["summary"]["best/accuracy"] == study.best_value
    states = [t.state.name for t in study.get_trials()]
    assert run["summary"]["trials/complete"] == states.count("COMPLETE")
    assert run["summary"]["trials/failed"] == states.count("FAIL")
    assert run["config"]["best.learning_rate"] == study.best_params["learning_rate"]
    artifacts = [
        r.request.log_artifact.artifact if r.HasField("request") else r.artifact
        for r in wandb_files.records(next(where.glob("wandb/offline-run-*/*.wandb")))
        if r.WhichOneof("record_type") in ("artifact", "request")
    ]
    named = {a.name: set(a.aliases) for a in artifacts if a.type in ("study", "model")}
    assert named["synthetic-model"] >= {"best", "synthetic"}
    assert "synthetic" in named["synthetic-study"]
    # Unchanged, it stays: twice is once.
    before = offline_runs(folder)
    write_controller_run(study, view_study(study, folder))
    assert offline_runs(folder) == before
    study.tell(11, 0.99)
    write_controller_run(study, view_study(study, folder))
    assert wandb_files.run_of(where)["summary"]["best/trial"] == 11


def test_an_untracked_study_has_no_controller_run(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, trials=1)
    assert write_controller_run(study, view_study(study, folder)) is None
