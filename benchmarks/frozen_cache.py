"""Training steps of a second trial with and without the cache of frozen layers, SmolLM2-135M."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from results_file import ResultsFile

from rmexp.backbone.options import PeftOptions
from rmexp.backbone.sources import resolve_model
from rmexp.preferences.read import read_files
from rmexp.reward.data import TrainingPairs
from rmexp.reward.train import TrainedModel, train_reward_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rmexp").expanduser())
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    here = Path(__file__).resolve()
    shared = Path(os.environ.get("RMEXP_SHARED_DATA", here.parents[2] / "shared" / "data"))
    pairs = read_files(shared / "hh-rlhf/harmless-base-test.jsonl.gz", on_invalid="drop").pairs
    drawn = np.random.default_rng(0).permutation(len(pairs))[: arguments.pairs]
    train = TrainingPairs.from_preferences(pairs[int(i)] for i in drawn)
    model = resolve_model("smollm2_135m", arguments.cache)

    def run(kind: PeftOptions, folder: Path, room: int, seed: int) -> TrainedModel:
        return train_reward_model(
            train,
            None,
            model=model,
            directory=folder / "trial",
            cache_dir=folder / "cache",
            seed=seed,
            peft=kind,
            epochs=1,
            max_length=512,
            precision="bf16",
            threads=arguments.threads,
            frozen_cache_bytes=room,
            save=False,
        )

    kinds = {
        "head_only": PeftOptions(kind="head_only"),
        "last_k=4 of 30": PeftOptions(kind="last_k", last_k=4),
    }
    with ResultsFile("frozen_cache") as results:
        results.line(f"{arguments.pairs} pairs of hh-rlhf, bf16, {arguments.threads} threads")
        results.line(
            f"{'trained':<16}{'uncached s':>12}{'cached s':>10}{'times':>8}{'loss gap':>10}"
        )
        for name, kind in kinds.items():
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                run(kind, folder, 4 << 30, seed=1)  # the first trial fills the cache
                cached = run(kind, folder, 4 << 30, seed=2)
                assert cached.metrics["frozen_computed"] == 0
                plain = run(kind, folder, 0, seed=2)
            gap = abs(cached.history[0]["train/loss"] - plain.history[0]["train/loss"])
            a, b = plain.metrics["seconds"], cached.metrics["seconds"]
            results.line(f"{name:<16}{a:>12.2f}{b:>10.2f}{a / b:>8.1f}{gap:>10.5f}")


if __name__ == "__main__":
    main()
