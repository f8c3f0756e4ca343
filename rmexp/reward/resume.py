"""Where a run's checkpoint lies; without torch, for those that only ask whether there is one."""

from __future__ import annotations

from pathlib import Path

# In the run's directory.
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from, None where there is none."""
    return next((p for n in (LAST, PREVIOUS) if (p := folder / n).exists()), None)
