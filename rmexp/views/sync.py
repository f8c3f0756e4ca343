"""`rmexp sync`: upload a study's offline W&B runs, each once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from rmexp.errors import UserError
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import write_json
from rmexp.views.controller_run import write_controller_run
from rmexp.views.study_view import view_study

FILE_NAME = "synced.json"
# Runs W&B's own command; returns its exit code and what it said.
Runner = Callable[[Sequence[str]], tuple[int, str]]


@dataclass(frozen=True)
class Synced:
    """What a call did.

    Attributes:
        uploaded: runs uploaded now.
        known: runs that had been uploaded before, and have not grown since.
        running: runs of trials that still run: they wait for the next call.
    """

    uploaded: int
    known: int
    running: int


def sync(
    study: optuna.Study,
    folder: StudyFolder,
    *,
    runner: Runner | None = None,
    on_event: Callable[[str], None] = lambda event: None,
) -> Synced:
    """Upload every offline run of the study that is not uploaded yet, and the controller's.

    What has been uploaded is noted in ``synced.json`` after each run, so that a call that broke
    off goes on where it stopped.

    Args:
        study: as it stands.
        folder: of the study.
        runner: of ``wandb sync``; for tests.
        on_event: told each upload.

    Raises:
        UserError: W&B refused a run; the others have been tried all the same.
    """
    run = runner or _wandb
    view = view_study(study, folder)
    write_controller_run(study, view)
    busy = {t.directory for t in view.of_state("running") if t.directory is not None}
    marks = _marks(folder)
    uploaded = known = waiting = 0
    refused: list[str] = []
    for run_id, files in _runs(folder):
        sizes = {str(path.relative_to(folder.root)): path.stat().st_size for path in files}
        name = next(iter(sizes))
        if any(directory in path.parents for directory in busy for path in files):
            waiting += 1
        elif all(marks.get(name) == size for name, size in sizes.items()):
            known += 1
        else:
            # W&B has its own mark, under which it would skip a run that has grown.
            again = ["--include-synced"] if sizes.keys() & marks.keys() else []
            # A killed trial's run has a second part, by the controller; W&B joins them by id.
            joined = ["--id", run_id] if len(files) > 1 else []
            code, said = run(["sync", *again, *joined, *[str(path.parent) for path in files]])
            if code:
                refused.append(f"{name}: {said.strip().splitlines()[-1] if said.strip() else code}")
                continue
            uploaded += 1
            marks |= sizes
            write_json(folder.root / FILE_NAME, marks)
            on_event(f"uploaded {name}")
    if refused:
        raise UserError(
            f"sync: W&B refused {len(refused)} of {len(refused) + uploaded} runs, the first with "
            f"{refused[0]}; log in with 'wandb login' and run the same command again"
        )
    return Synced(uploaded, known, waiting)


def offline_runs(folder: StudyFolder) -> list[Path]:
    """The ``.wandb`` files of all offline runs below the study's folder."""
    return sorted(folder.root.glob("**/wandb/offline-run-*/*.wandb"))


def _runs(folder: StudyFolder) -> list[tuple[str, list[Path]]]:
    """Each run's id and its files, in the order in which they were begun."""
    runs: dict[tuple[Path, str], list[Path]] = {}
    for path in offline_runs(folder):
        runs.setdefault((path.parent.parent, path.stem.removeprefix("run-")), []).append(path)
    return [(run_id, files) for (_, run_id), files in runs.items()]


def _marks(folder: StudyFolder) -> dict[str, int]:
    try:
        return dict(json.loads((folder.root / FILE_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _wandb(words: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", *words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr
