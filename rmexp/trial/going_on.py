"""Which run ``rmexp train ckpt_path=...`` goes on from; light, as mistakes are told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmexp.errors import UserError, looked_in
from rmexp.reward.checkpoint_files import CHECKPOINTS, read_made_of
from rmexp.tracking.tracker import flatten
from rmexp.trial.record import FILE_NAME, TrialRecord
from rmexp.trial.schema import FREE_KEYS, TrialConfig
from rmexp.trial.unfinished import has_progress, parts, remove_progress

RUNS = "runs"
LAST = "last"
# When it is written is no part of what is trained.
_FREE = (*FREE_KEYS, "trainer.checkpoint_steps")
_SHOWN = 3


def run_to_go_on(ckpt_path: str, output_dir: Path, config: TrialConfig) -> Path:
    """The directory of the run to go on from.

    Args:
        ckpt_path: a run's directory, or ``last``: the newest below ``output_dir`` that has a
            checkpoint and has not come to its end.
        output_dir: single runs go below it.
        config: of the run that is to go on.

    Raises:
        UserError: there is no such checkpoint, or its run has another config; names the keys.
    """
    if ckpt_path == LAST:
        directory = _last_run(output_dir / RUNS)
    else:
        directory = Path(ckpt_path)
        if not directory.is_dir():
            raise UserError(f"ckpt_path: no such folder: {ckpt_path}{looked_in(ckpt_path)}")
        if not has_progress(directory):
            raise UserError(
                f"ckpt_path: {directory} is no run with a checkpoint (trainer.checkpoint_steps)"
            )
    _refuse_other_config(directory, config)
    return directory


def forget_checkpoints(directory: Path, output_dir: Path) -> None:
    """Remove what a finished run has gone on from, and what earlier attempts at it have left.

    Only of single runs: a study looks after its own.
    """
    runs = _runs(directory)
    remove_progress(directory)
    for other in (output_dir / RUNS).glob("*"):
        if any(run in runs for run in _runs(other)):
            remove_progress(other)


def _last_run(runs: Path) -> Path:
    found = [p for p in runs.glob("*") if has_progress(p) and not _is_over(p)]
    if not found:
        raise UserError(
            f"ckpt_path=last: no unfinished run with a checkpoint below {runs}; a run writes "
            "checkpoints with trainer.checkpoint_steps=N"
        )
    return max(found, key=_age)


def _age(directory: Path) -> tuple[str, int]:
    """By the time in its name; of two begun in one second the later has ``-2`` behind it."""
    parts = directory.name.split("-")
    number = int(parts[2]) if len(parts) == 3 and parts[2].isdecimal() else 1
    return "-".join(parts[:2]), number


def _is_over(directory: Path) -> bool:
    try:
        return TrialRecord.read(directory).state != "failed"
    except UserError:
        return False


def _refuse_other_config(directory: Path, config: TrialConfig) -> None:
    stored = next(filter(None, map(_stored_config, parts(directory))), None)
    if stored is None:
        raise UserError(f"ckpt_path: {directory}: its checkpoint does not tell the run's config")
    if stored["seed"] in config.seeds and not stored.get("seeds"):
        config = config.with_seed(stored["seed"])  # what is stored is of one of the seeds
    # Through JSON, as the stored one has gone.
    old, new = flatten(stored), flatten(json.loads(json.dumps(config.to_plain())))
    differing = [
        f"{key} was {_said(old, key)}, now {_said(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(f"{key}.".startswith(f"{f}.") for f in _FREE)
    ]
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"ckpt_path: {directory}: {'; '.join(differing[:_SHOWN])}{more}; give the same to go "
            "on, or leave ckpt_path out to begin anew"
        )


def _runs(directory: Path) -> list[Any]:
    """Which runs the checkpoints of a trial and of its seeds belong to."""
    runs = [read_made_of(part / CHECKPOINTS).get("run") for part in parts(directory)]
    return [run for run in runs if run is not None]


def _stored_config(directory: Path) -> dict[str, Any] | None:
    stored = read_made_of(directory / CHECKPOINTS).get("config")
    if stored is None and (directory / FILE_NAME).is_file():
        stored = TrialRecord.read(directory).config  # of a seed that has ended
    return stored


def _said(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "not there"
