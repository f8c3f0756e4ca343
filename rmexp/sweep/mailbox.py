"""What a trial on another host and its controller tell each other, by files in its directory.

A cluster's nodes share a file system with the controller and, often, nothing else: no port is
open to a node, and a job may begin hours after it was handed in. So a report is a file, its
verdict another, both written atomically. ``given_up`` is for good: a trial that finds it stops.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from rmexp.trial.record import write_json

FOLDER = "mail"
_RUNS = "runs"
_LOOK = 0.2


class GivenUp(BaseException):
    """Another attempt has taken this trial's place; nothing that handles errors may stop this."""


def post_report(directory: Path, epoch: int, value: float, patience: float) -> bool:
    """Report from inside the trial; whether it is to be pruned.

    Args:
        directory: of the trial.
        epoch: counted from 1.
        value: the objective.
        patience: seconds to wait for the verdict. A controller that is busy or gone must not keep
            a GPU waiting: without a verdict the trial goes on.

    Raises:
        GivenUp: the trial was given up.
    """
    mail = directory / FOLDER
    mail.mkdir(exist_ok=True)
    write_json(mail / f"report-{epoch:04d}.json", {"epoch": epoch, "value": value})
    deadline = time.monotonic() + patience
    while True:
        if is_given_up(directory):
            raise GivenUp
        verdicts = [_read(path) for path in mail.glob("verdict-*.json")]
        if any(v is not None and v["prune"] for v in verdicts):
            return True
        if any(v is not None and v["epoch"] == epoch for v in verdicts):
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK)


def open_reports(directory: Path) -> list[tuple[int, float]]:
    """Reports that wait for a verdict, as (epoch, value), by epoch."""
    mail = directory / FOLDER
    found = []
    for path in sorted(mail.glob("report-*.json")):
        if not _verdict(mail, int(path.stem.removeprefix("report-"))).exists():
            plain = _read(path)
            if plain is not None:
                found.append((plain["epoch"], plain["value"]))
    return found


def post_verdict(directory: Path, epoch: int, prune: bool) -> None:
    """Answer a report."""
    write_json(_verdict(directory / FOLDER, epoch), {"epoch": epoch, "prune": prune})


def give_up(directory: Path) -> None:
    """Tell a trial that may still run somewhere to stop; nothing where it never began."""
    if directory.is_dir():
        (directory / FOLDER).mkdir(exist_ok=True)
        (directory / FOLDER / "given_up").touch()


def is_given_up(directory: Path) -> bool:
    """Whether :func:`give_up` was called."""
    return (directory / FOLDER / "given_up").exists()


def begin(directory: Path) -> bool:
    """Note that the trial begins; whether it had begun before, so that a requeued job knows."""
    mark = directory / FOLDER / "begun"
    mark.parent.mkdir(parents=True, exist_ok=True)
    (directory / FOLDER / _RUNS).touch()
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def queue_again(directory: Path) -> None:
    """Note that the trial ends here for now, and waits for its place once more."""
    (directory / FOLDER / _RUNS).unlink(missing_ok=True)


def runs(directory: Path) -> bool:
    """Whether the trial has begun and, as far as is known, does not wait for its place again."""
    return (directory / FOLDER / _RUNS).exists()


def _verdict(mail: Path, epoch: int) -> Path:
    return mail / f"verdict-{epoch:04d}.json"


def _read(path: Path) -> dict | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError):
        return None  # another host's file system shows it a moment later
