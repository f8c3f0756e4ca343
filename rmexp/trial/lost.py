"""The tracker's record of a trial that could not write its own: killed outright, or lost.

``python -m rmexp.trial.lost``, with the trial on its standard input, is what a controller starts: a
tracker that hangs or fails then takes nothing along.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmexp.trial import assembly
from rmexp.trial.record import FILE_NAME, TrialIdentity
from rmexp.trial.schema import TrialConfig, trial_config
from rmexp.trial.unfinished import seed_directory


def close_lost_run(
    config: TrialConfig, identity: TrialIdentity, directory: Path, reason: str
) -> bool:
    """Tell the tracker that a trial failed, under the run id that the trial itself had.

    Returns:
        False where nothing was told: the trial has a record after all, and told it.
    """
    if (directory / FILE_NAME).exists():
        return False
    for seed in config.seeds:
        own = seed_directory(directory, seed)
        if own.is_dir():
            close_lost_run(config.with_seed(seed), replace(identity, seed=seed), own, reason)
    tracker = assembly.tracker(config.tracker, assembly.run_info(config, identity, directory))
    tracker.finish("failed", reason, {})
    return True


def main() -> None:
    """Close the run that standard input describes as JSON."""
    told: dict[str, Any] = json.load(sys.stdin)
    close_lost_run(
        trial_config(told["config"]),
        TrialIdentity(**told["identity"]),
        Path(told["directory"]),
        told["reason"],
    )


if __name__ == "__main__":
    main()
