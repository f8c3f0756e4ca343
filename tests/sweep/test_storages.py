from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest
from sweep_doubles import FakeExecutor, controller_of, states

from rmexp.errors import UserError
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.storages import gather, open_storage
from rmexp.sweep.study import load_study


def test_a_gathered_database_can_be_copied_while_the_study_is_open(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    study = optuna.create_study(storage=open_storage(f"sqlite:///{database}"), study_name="s")
    for value in range(5):
        study.tell(study.ask(), value)
    gather(database)
    copy = tmp_path / "copy" / "study.db"
    copy.parent.mkdir()
    shutil.copy(database, copy)
    found = optuna.load_study(study_name="s", storage=open_storage(f"sqlite:///{copy}"))
    assert [t.value for t in found.trials] == [0, 1, 2, 3, 4]
    assert len(study.trials) == 5


def test_a_journal_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.storage: no folder .*/nowhere"):
        open_storage(f"journal:///{tmp_path}/nowhere/study.journal")


@pytest.mark.parametrize("scheme", ["journal", "sqlite"])
def test_a_reader_makes_no_file(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        open_storage(f"{scheme}:///{tmp_path}/none", write=False)
    assert not list(tmp_path.iterdir())


def test_an_empty_journal_hides_no_study(tmp_path: Path) -> None:
    controller, _, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    controller.run()
    controller.folder.journal.touch()
    assert len(load_study(tmp_path, "s").trials) == 1


@pytest.mark.parametrize("storage", ["jurnal", "study.db"])
def test_a_storage_of_no_kind_is_refused_by_name(storage: str) -> None:
    with pytest.raises(ValueError, match="must be null, journal, or a URL"):
        SweepConfig(storage=storage)


def test_another_storage_does_not_overwrite_a_studys_trials(tmp_path: Path) -> None:
    controller_of(tmp_path, FakeExecutor(), trials=2)[0].run()
    with pytest.raises(UserError, match=r"sweep\.storage: study 's' is kept in sqlite.*study\.db"):
        controller_of(tmp_path, FakeExecutor(), trials=2, storage="journal")
    again, study, _ = controller_of(tmp_path, FakeExecutor(), trials=3)
    again.run()
    assert states(study) == ["COMPLETE"] * 3


def test_a_storage_that_is_gone_is_not_begun_anew_over_its_trials(tmp_path: Path) -> None:
    controller, _, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    controller.run()
    for path in controller.folder.root.glob("study.db*"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds no study 's'.*trials"):
        controller_of(tmp_path, FakeExecutor(), trials=1)
    assert not controller.folder.database.exists()
