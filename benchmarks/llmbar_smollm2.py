"""SmolLM2-135M on LLMBar: with one random head, and after a short training from it.

Only over draws of the head is a random head right on half of the rows: one head is a fixed
direction, which may follow length or wording. The interval is over rows, for the head of seed 0.
The trained one learns from human preferences of HH-RLHF's harmless dialogues by LoRA; LLMBar asks
who follows instructions, so little transfer is expected, and what there is stands here.

    python benchmarks/llmbar_smollm2.py [--rows 419] [--pairs 400]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from results_file import ResultsFile

from rmexp.backbone.options import PeftOptions
from rmexp.evaluation.compare import compare
from rmexp.evaluation.sets import EvaluationSet, read_set
from rmexp.evaluation.suites import read_suite
from rmexp.reward.data import TrainingPairs
from rmexp.reward.model import RewardModel, load_base_model
from rmexp.reward.train import train_reward_model

DATA = Path(os.environ.get("RMEXP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
CACHE = Path(os.environ.get("RMEXP_CACHE_DIR", Path.home() / ".cache" / "rmexp"))
MAX_LENGTH = 512


def trained(count: int, folder: Path) -> RewardModel:
    """One epoch of LoRA on so many dialogues; none of LLMBar's rows is among them."""
    pairs = read_suite("hh", DATA / "hh-rlhf").pairs
    drawn = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:count]]
    data = TrainingPairs(
        ids=[p.id for p in drawn],
        prompts=[p.prompt for p in drawn],
        chosen=[p.chosen for p in drawn],
        rejected=[p.rejected for p in drawn],
    )
    return train_reward_model(
        data,
        None,
        model="smollm2_135m",
        directory=folder,
        cache_dir=CACHE,
        seed=0,
        peft=PeftOptions(kind="lora", rank=8),
        learning_rate=1e-4,
        epochs=1,
        max_length=MAX_LENGTH,
        template="chat",
        precision="bf16",
        save=False,
    ).model


def report(results: ResultsFile, models: dict[str, RewardModel], of: EvaluationSet) -> None:
    found = compare(models, of)
    results.line(f"\n{of.name} ({of.licence}), {len(of.rows)} rows")
    for name, result in found.results.items():
        for figure in result.figures:
            results.line(f"{name:<12}{figure.name:<22}{figure.interval()}")
    change = found.differences["trained"]["accuracy"]
    results.line(f"trained - random head, paired: {change}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=419)
    parser.add_argument("--pairs", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with ResultsFile("llmbar_smollm2") as results, tempfile.TemporaryDirectory() as folder:
        base = load_base_model(
            "smollm2_135m",
            seed=0,
            template="chat",
            max_length=MAX_LENGTH,
            cache_dir=CACHE,
            precision="bf16",
        )
        results.line(
            f"SmolLM2-135M (4-bit rounded weights), bf16; trained: LoRA r=8, one epoch, "
            f"{options.pairs} pairs of hh-rlhf harmless, human labels"
        )
        of = read_set("llmbar", str(DATA / "llmbar")).sample(options.rows)
        report(results, {"random head": base, "trained": trained(options.pairs, Path(folder))}, of)


if __name__ == "__main__":
    main()
