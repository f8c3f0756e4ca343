"""Print a benchmark's lines and keep them under benchmarks/results, with date, machine, command."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


class ResultsFile:
    """Lines that go to the terminal now, and to ``results/NAME.txt`` at the end of a ``with``."""

    def __init__(self, name: str):
        self._path = RESULTS / f"{name}.txt"
        self._lines: list[str] = []
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        self.line(f"# {datetime.date.today().isoformat()}  {machine()}")
        self.line(f"# {command}")

    def line(self, text: str = "") -> None:
        print(text, flush=True)
        self._lines.append(text)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            RESULTS.mkdir(exist_ok=True)
            self._path.write_text("\n".join(self._lines) + "\n", encoding="utf-8")


def machine() -> str:
    """Processor, cores and versions, in one line."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0))
    versions = [f"Python {platform.python_version()}", f"numpy {np.__version__}"]
    if "torch" in sys.modules:
        versions.append(f"torch {sys.modules['torch'].__version__}")
    return f"{model}, {cores} cores, {', '.join(versions)}"
