from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest

from rmexp.errors import UserError
from rmexp.sweep.storages import gather, open_storage


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
