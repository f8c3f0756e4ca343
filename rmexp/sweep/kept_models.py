"""Which trained models of a study stay on the disk."""

from __future__ import annotations

import shutil

from rmexp.sweep.ledger import DIRECTORY, Ledger
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL


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
