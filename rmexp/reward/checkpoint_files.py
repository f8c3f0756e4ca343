"""A run's folder of checkpoints: which is the last, and whose it is; light to import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, differences

# Of a trial's directory.
CHECKPOINTS = "checkpoints"
MADE_OF = "rmexp_checkpoint.json"
NAME = "last.ckpt"
NEXT = "next.ckpt"
PREVIOUS = "previous.ckpt"


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from, None where there is none."""
    return next((p for n in (NAME, PREVIOUS) if (p := folder / n).exists()), None)


def remove_checkpoints(folder: Path) -> None:
    """A finished run needs none."""
    shutil.rmtree(folder, ignore_errors=True)


def write_made_of(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Write beside the checkpoints what they belong to: the whole of it, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{MADE_OF}"
    partial.write_text(json.dumps(made_of, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MADE_OF)


def read_made_of(folder: Path) -> dict[str, Any]:
    """What the checkpoints belong to; empty where nothing that can be read tells it."""
    try:
        return dict(json.loads((folder / MADE_OF).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def checkpoint_to_go_on(
    folder: Path, run: Fingerprint, *, must: bool
) -> tuple[Path | None, str | None]:
    """The checkpoint from which a run goes on, or None and why it begins anew.

    A checkpoint knows pairs and steps by their numbers: of other pairs, or of another schedule,
    it would be taken without an error and train something else.

    Args:
        folder: of the checkpoints.
        run: fingerprint of what the run's result depends on.
        must: refuse to begin anew.

    Raises:
        UserError: there is no checkpoint of this run, and there must be.
    """
    last = last_checkpoint(folder)
    why = None
    if last is None and must:
        why = f"no checkpoint in {folder}"
    if last is not None and (named := _other_than(folder, run)):
        why = f"{last} is another run's: {', '.join(named)} differ"
        last = None
    if why is not None and must:
        raise UserError(f"ckpt_path: {why}; leave it out to begin anew")
    return last, None if why is None else f"{why}; training begins anew"


def _other_than(folder: Path, run: Fingerprint) -> list[str]:
    try:
        return differences(Fingerprint.from_plain(read_made_of(folder)["run"]), run)
    except (KeyError, TypeError):
        return [MADE_OF]
