"""What an unfinished trial, and each of its seeds, keeps on the disk; light to import."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rmexp.reward.checkpoint_files import CHECKPOINTS, last_checkpoint, remove_checkpoints
from rmexp.trial.record import MODEL

_PREFIX = "seed-"


def seed_directory(directory: Path, seed: int) -> Path:
    """Where a trial of several seeds runs one of them."""
    return directory / f"{_PREFIX}{seed}"


def has_progress(directory: Path) -> bool:
    """Whether a trial that was interrupted here can go on: from a checkpoint, or ended seeds."""
    return any(
        last_checkpoint(each / CHECKPOINTS) is not None
        or (each != directory and (each / MODEL).is_dir())
        for each in parts(directory)
    )


def remove_progress(directory: Path) -> None:
    """Remove what only an interrupted trial needs: checkpoints, and models of single seeds."""
    for each in parts(directory):
        remove_checkpoints(each / CHECKPOINTS)
        if each != directory:
            shutil.rmtree(each / MODEL, ignore_errors=True)


def with_progress(trials: Path) -> set[Path]:
    """The directories below it in which :func:`remove_progress` may find something."""
    return {p.parent for last in (CHECKPOINTS, f"{_PREFIX}*") for p in trials.glob(f"*/{last}")}


def copy_whole(old: Path, new: Path, leave_out: str = "") -> None:
    """Copy a folder at once: whoever is killed in it, or fails, leaves no half of it.

    Raises:
        OSError, shutil.Error: it cannot be copied.
    """
    partial = new.with_name(f".{new.name}.{os.getpid()}")
    try:
        shutil.copytree(old, partial, ignore=shutil.ignore_patterns(leave_out))
        partial.rename(new)
    except (OSError, shutil.Error):
        shutil.rmtree(partial, ignore_errors=True)
        raise


def parts(directory: Path) -> list[Path]:
    """The trial's directory and those of its seeds."""
    return [directory, *sorted(directory.glob(f"{_PREFIX}*"))]
