"""Commands that are runs of their own at the tracker: rate, label, adapter."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from rmexp.tracking import RunInfo, Tracker
from rmexp.trial import assembly
from rmexp.trial.schema import LabellingConfig, TrackerConfig


class TrackedConfig(LabellingConfig):
    """A command that labels, or rates, and can tell a tracker of it."""

    tracker: TrackerConfig = TrackerConfig()
    output_dir: str = Field("outputs", description="the tracker's files")


@dataclass
class TrackedRun:
    """A run while it lasts.

    Attributes:
        tracker: takes metrics and tables.
        summary: its final numbers, filled on the way.
    """

    tracker: Tracker
    summary: dict[str, Any] = field(default_factory=dict)


@contextmanager
def tracked(config: TrackedConfig, job_type: str, name: str = "") -> Iterator[TrackedRun]:
    """Open a run of that job type; at the block's end it is complete, or failed with the error.

    Args:
        config: the command's; logged flat.
        job_type: rate, label or adapter; the run's files go to ``output_dir/JOB_TYPE/``.
        name: tells runs of one job type apart beside their time.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    called = "-".join(part for part in (job_type, name, stamp) if part)
    directory = Path(config.output_dir) / job_type / called
    plain = config.model_dump(mode="json")
    info = RunInfo(called, called, None, job_type, plain, directory)
    run = TrackedRun(assembly.tracker(config.tracker, info))
    try:
        yield run
    except BaseException as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        run.tracker.finish("failed", reason, run.summary)
        raise
    run.tracker.finish("complete", "", run.summary)
