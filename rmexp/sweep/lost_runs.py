"""Lost trials, told to the tracker in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from rmexp.sweep.job import LOG, TrialJob

_WAIT_SECONDS = 120.0


class LostRuns:
    """Closes the runs of trials that died without a word; call it with each.

    The sweep does not wait for the tracker before its end, and goes on whatever becomes of it.
    """

    def __init__(self) -> None:
        self._told: list[subprocess.Popen[str]] = []

    def __call__(self, job: TrialJob, reason: str) -> None:
        """Start telling; nothing where the trial has no tracker."""
        if job.config["tracker"]["kind"] == "none":
            return
        job.directory.mkdir(parents=True, exist_ok=True)
        told: dict[str, Any] = {
            "config": job.config,
            "identity": asdict(job.identity),
            "directory": str(job.directory),
            "reason": reason,
        }
        with (job.directory / LOG).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rmexp.trial.lost"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )
        assert process.stdin is not None
        with process.stdin:
            json.dump(told, process.stdin)
        self._told.append(process)

    def finish(self) -> None:
        """Wait for what is still being told."""
        for process in self._told:
            try:
                process.wait(_WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._told.clear()
