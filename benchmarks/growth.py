"""Pairs a second and peak memory of training as the data grows, with a tiny random backbone.

Each size is a process of its own: it reads a JSONL file of synthetic pairs, tokenises them once,
makes batches and trains for the same slice of time, over as many epochs as fit. The sizes take
turns and the median is told, so that a machine that slows down meanwhile does not pass for growth;
the rates of single turns stand beside it. Memory is told in three parts. `base` is the process
before it reads anything, libraries included. `data` is what the pairs themselves take, texts and
tokens, and is told a pair. `training` is how much the peak rises from the first step on: that must
not grow with the number of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from results_file import ResultsFile

WORDS = [
    "safe",
    "harm",
    "rule",
    "answer",
    "refuse",
    "polite",
    "why",
    "how",
    "tell",
    "story",
    "plan",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=40.0, help="of training, at each size")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--turns", type=int, default=3, help="of each size")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.seconds, arguments.threads)))
        return
    with ResultsFile("growth") as results, tempfile.TemporaryDirectory() as scratch:
        results.line(
            f"tiny random Llama (2 layers of 64), 16 pairs a batch, {arguments.threads} threads, "
            f"{arguments.seconds:g} s of training at each size, median of {arguments.turns} turns"
        )
        results.line(
            f"{'pairs':>8}{'trained':>9}{'pairs/s':>9}{'ratio':>7}{'read s':>8}{'tokens s':>9}"
            f"{'base MB':>9}{'data MB':>9}{'kB/pair':>9}{'training MB':>13}"
            f"{'peak MB':>9}  pairs/s by turn"
        )
        turns: dict[int, list[dict[str, float]]] = {size: [] for size in arguments.sizes}
        for _ in range(arguments.turns):
            for size in arguments.sizes:
                path = Path(scratch) / f"{size}.jsonl"
                write_pairs(path, size)
                turns[size].append(own_process(path, arguments))
                path.unlink()
        first: dict[str, float] | None = None
        for size, rows in turns.items():
            row = {name: statistics.median(each[name] for each in rows) for name in rows[0]}
            first = first or row
            data = row["data_mb"]
            rates = " ".join(f"{each['rate']:.0f}" for each in rows)
            results.line(
                f"{size:>8}{row['trained']:>9.0f}{row['rate']:>9.1f}"
                f"{row['rate'] / first['rate']:>7.2f}{row['read_s']:>8.2f}{row['tokens_s']:>9.2f}"
                f"{row['base_mb']:>9.0f}{data:>9.0f}{1000 * data / size:>9.2f}"
                f"{row['training_mb']:>13.0f}{row['peak_mb']:>9.0f}  {rates}"
            )


def write_pairs(path: Path, size: int) -> None:
    """Synthetic pairs of the same lengths at every size, each with a prompt of its own."""
    generator = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(WORDS[i] for i in generator.integers(0, len(WORDS), words))

    with path.open("w", encoding="utf-8") as stream:
        for number in range(size):
            words = generator.integers(4, 24, 3)
            row = {
                "prompt": f"{number} {text(words[0])}",
                "response_a": text(words[1]),
                "response_b": text(words[2]) + " b",
                "preference": "ab"[number % 2],
            }
            stream.write(json.dumps(row) + "\n")


def own_process(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(path), "--seconds", str(arguments.seconds)]
    command += ["--threads", str(arguments.threads)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


class Memory:
    """The process's own memory in MB, without mapped files, and its peak since it was asked."""

    def __init__(self) -> None:
        self._peak = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def now() -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1000
        raise OSError("no RssAnon in /proc/self/status")

    def peak(self) -> float:
        """Since the last call."""
        peak, self._peak = max(self._peak, self.now()), 0.0
        return peak

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self._peak = max(self._peak, self.now())


class TimeIsUp(Exception):
    """The slice of training is over."""


def measure(path: Path, seconds: float, threads: int) -> dict[str, float]:
    from rmexp.preferences.read import read_files
    from rmexp.reward.data import TrainingPairs
    from rmexp.reward.train import train_reward_model

    # Warm: the first run of a process pays for imports, pools and the model's own file.
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        warm = cache / "warm.jsonl"
        write_pairs(warm, 64)

        def train(pairs: TrainingPairs, progress: object = None) -> None:
            train_reward_model(
                pairs,
                None,
                model="tiny",
                directory=cache / "run",
                cache_dir=cache,
                seed=0,
                epochs=1 if progress is None else 1_000,
                schedule="constant",
                batch_pairs=16,
                max_length=256,
                threads=threads,
                save=False,
                progress=progress,
            )

        train(TrainingPairs.from_preferences(read_files(warm).pairs))
        memory = Memory()
        base = memory.peak()
        began = time.perf_counter()
        pairs = TrainingPairs.from_preferences(read_files(path).pairs)
        read = time.perf_counter()
        # Steps done, when, and the memory then: the first 20 steps only warm caches.
        marks: dict[str, float] = {}
        steps = 0

        def progress(done: int, total: int) -> None:
            nonlocal steps
            steps = done
            now = time.perf_counter()
            if done == 1:
                marks["first"] = now
                marks["peak_before"] = memory.peak()
            if done == 20:
                marks["began"] = now
                marks["data"] = memory.now()
            marks["last"] = now
            if done >= 60 and now - marks["began"] > seconds:
                raise TimeIsUp

        with suppress(TimeIsUp):
            train(pairs, progress)
        training = memory.peak()
        return {
            "trained": 16.0 * steps,
            "rate": 16 * (steps - 20) / (marks["last"] - marks["began"]),
            "read_s": read - began,
            "tokens_s": marks["first"] - read,
            "base_mb": base,
            "data_mb": marks["data"] - base,
            "training_mb": training - marks["data"],
            "peak_mb": max(training, marks["peak_before"]),
        }


if __name__ == "__main__":
    main()
