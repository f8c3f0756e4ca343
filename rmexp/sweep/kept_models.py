"""Which trained models and checkpoints of a study stay on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from rmexp.sweep.ledger import DIRECTORY, Ledger
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL
from rmexp.trial.unfinished import has_progress, remove_progress, with_progress


def keep_models(folder: StudyFolder, ledger: Ledger, config: SweepConfig) -> None:
    """Remove the models that ``sweep.keep`` does not name; records and logs always stay."""
    if config.keep == "all":
        return
    if config.keep == "last":
        wanted = [ledger.last]
    else:
        wanted = [ledger.best] if ledger.best is not None else [*ledger.front]
    keep = {trial.user_attrs.get(DIRECTORY) for trial in wanted if trial is not None}
    if not keep:
        return
    for number, directory in list(ledger.models.items()):
        if directory not in keep:
            shutil.rmtree(folder.root / directory / MODEL, ignore_errors=True)
            del ledger.models[number]


def drop_checkpoints(folder: StudyFolder, ledger: Ledger, ended: int) -> None:
    """Remove the checkpoints of a trial that has ended, and of the attempts before it.

    They hold weights and optimiser state. What a retry may go on from stays until it has ended.
    """
    for number in ledger.attempts(ended):
        if not ledger.needs_checkpoints(number):
            remove_progress(folder.trial(number))


def drop_left_checkpoints(folder: StudyFolder, ledger: Ledger) -> None:
    """The same for what controllers that died meanwhile have left."""
    for path in with_progress(folder.trials):
        number = int(path.name) if path.name.isdecimal() else len(ledger.trials)
        # Others may have begun trials that the ledger has not seen yet.
        if number < len(ledger.trials) and not ledger.needs_checkpoints(number):
            remove_progress(path)


def to_go_on_from(folder: StudyFolder, ledger: Ledger, lost: int) -> Path | None:
    """Directory of the latest attempt that came to something: one lost at once has nothing.

    Absolute, as a job may run in another folder.
    """
    for number in ledger.attempts(lost):
        if has_progress(folder.trial(number)):
            return folder.trial(number).resolve()
    return None
