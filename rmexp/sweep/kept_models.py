"""Which trained models of a study stay on the disk."""

from __future__ import annotations

import shutil

from rmexp.sweep.ledger import DIRECTORY, Ledger
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import MODEL


def keep_models(folder: StudyFolder, ledger: Ledger, config: SweepConfig) -> None:
    """Remove the models that ``sweep.keep`` does not name; records and logs always stay."""
    if config.keep == "all" or len(config.directions) > 1:
        return
    wanted = ledger.best if config.keep == "best" else ledger.last
    if wanted is None:
        return
    keep = wanted.user_attrs.get(DIRECTORY)
    for number, directory in list(ledger.models.items()):
        if directory != keep:
            shutil.rmtree(folder.root / directory / MODEL, ignore_errors=True)
            del ledger.models[number]
