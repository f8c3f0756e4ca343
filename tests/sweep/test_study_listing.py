"""Studies are found below the output folder, wherever Optuna keeps them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from sweep_doubles import FakeExecutor, controller_of

from rmexp.cli import main
from rmexp.sweep.study import StudyFolder, load_study, studies_below
from rmexp.views.server import make_app


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A study in SQLite, one in a journal, one in a database elsewhere; the last is newest."""
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    for age, (name, storage) in enumerate(
        [("plain", None), ("journaled", "journal"), ("served", elsewhere)]
    ):
        controller, _, _ = controller_of(
            tmp_path, FakeExecutor(), name=name, trials=3, storage=storage
        )
        controller.run()
        del controller
        gc.collect()  # SQLite writes once more when its last connection closes
        for path in (tmp_path / "studies" / name).glob("*.*"):
            os.utime(path, (1e9 + age, 1e9 + age))
    return tmp_path


def test_every_study_is_found_and_opened_by_its_name(three: Path) -> None:
    assert [folder.name for folder in studies_below(three)] == ["served", "journaled", "plain"]
    for name in ("plain", "journaled", "served"):
        assert len(load_study(three, name).trials) == 3


def test_the_list_names_every_study(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["studies", "--output-dir", str(three)])
    out = capsys.readouterr().out
    assert all(name in out for name in ("plain", "journaled", "served"))


def test_a_database_that_does_not_answer_hides_no_other_study(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    StudyFolder.of(three, "served").mark("sqlite:////nowhere/at/all.db")
    main(["studies", "--output-dir", str(three)])
    assert "plain" in capsys.readouterr().out
    answer: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    body = b"".join(make_app(three)(environ, lambda status, headers: answer.append(status)))
    assert answer == ["200 OK"]
    assert b"/study/journaled" in body
    assert b"no study is kept in" in body


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("journal:////mnt/a@b:c/study.journal", "journal:////mnt/a@b:c/study.journal"),
    ],
)
def test_no_password_is_written(given: str, kept: str, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.mark(given)
    assert "secret" not in folder.marker.read_text()
    assert folder.storage_url(None) == kept
