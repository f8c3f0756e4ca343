"""Jobs for a cluster, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from rmexp.sweep.job import TrialJob
from rmexp.sweep.space import Dimension, Space
from rmexp.trial.record import TrialIdentity
from rmexp.trial.schema import TrialConfig

GRID = Space(
    (
        Dimension("gamma", optuna.distributions.FloatDistribution(0.2, 0.8, step=0.2)),
        Dimension("epochs", optuna.distributions.IntDistribution(2, 2)),
    )
)


def job_of(
    directory: Path,
    number: int = 0,
    attempt: int = 0,
    resume_from: Path | None = None,
    **config: Any,
) -> TrialJob:
    plain = TrialConfig(cache_dir="c", **config).to_plain()
    return TrialJob(TrialIdentity("s", number, attempt), plain, directory, resume_from)


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
    return found


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
