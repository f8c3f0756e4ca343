"""SmolLM2-135M on LLMBar: with one random head, and after a short training from it.

Only over draws of the head is a random head right on half of the rows: one head is a fixed
direction, which may follow length or wording. So there is the figure of one head, seed 0, with its
interval over rows, and that of many, with the interval over heads and rows drawn again both. Heads
are cheap: the texts' last hidden states are computed once, and a head is a product with them.
The trained one learns from human preferences of HH-RLHF's harmless dialogues by LoRA; LLMBar asks
who follows instructions, so little transfer is expected, and what there is stands here.

    python benchmarks/llmbar_smollm2.py [--rows 419] [--pairs 400] [--heads 200]

``--pairs 0`` leaves the training out: some 4 minutes on 2 cores with all rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from results_file import ResultsFile

from rmexp.backbone.batching import Rows
from rmexp.backbone.classifier import Classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.parallel import side_by_side
from rmexp.evaluation.compare import compare
from rmexp.evaluation.sets import EvaluationSet, read_set
from rmexp.evaluation.suites import read_suite
from rmexp.preferences.pair import prompt_text
from rmexp.reward.data import TrainingPairs
from rmexp.reward.model import RewardModel, load_base_model
from rmexp.reward.train import train_reward_model
from rmexp.statistics import Interval, bootstrap_crossed

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


def random_heads(base: RewardModel, of: EvaluationSet, heads: int) -> tuple[Interval, NDArray]:
    """Accuracy over heads drawn as a missing head is, and each head's own ``[heads]``.

    A head and its opposite are right on complementary rows, so the expectation is one half.
    """
    prompts = [p.prompt for p in of.rows]
    texts = [p.chosen for p in of.rows] + [p.rejected for p in of.rows]
    tokens = base.template.encode(prompts * 2, texts)
    classifier = base.classifier
    pairs = len(of.rows)
    states = torch.empty(len(tokens), classifier.inner.score.in_features)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rows = classifier.rows(tokens, [[i, i + pairs] for i in range(pairs)], 512)
        threads = torch.get_num_threads()
        for row, ends in zip(rows, side_by_side(_states(classifier), rows, threads), strict=True):
            states[torch.from_numpy(row.sequence)] = ends.float()
    spread = classifier.inner.config.initializer_range
    drawn = np.random.default_rng(0).normal(0.0, spread, (heads, states.shape[1]))
    scores = drawn @ states.numpy().astype(np.float64).T
    right = (scores[:, :pairs] > scores[:, pairs:]).astype(np.float64)
    groups = [prompt_text(p) for p in prompts]
    return bootstrap_crossed(right, groups=groups), right.mean(1)


def _states(classifier: Classifier) -> Callable[[Rows], torch.Tensor]:
    def run(rows: Rows) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return classifier._ends(rows)

    return run


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
    parser.add_argument("--heads", type=int, default=200)
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
        interval, each = random_heads(base, of, options.heads)
        low, middle, high = np.quantile(each, [0.05, 0.5, 0.95])
        results.line(f"{options.heads} random heads on {of.name}, {len(of.rows)} rows: {interval}")
        results.line(
            f"single heads, over all rows: 5% below {low:.3f}, half below {middle:.3f}, "
            f"5% above {high:.3f}"
        )
        if options.pairs:
            models = {"random head": base, "trained": trained(options.pairs, Path(folder))}
            report(results, models, of)


if __name__ == "__main__":
    main()
