"""Pairs a second of our scoring beside the usual one: two unsorted passes in fixed batches of 8.

Both run the same SmolLM2-135M with a random head in float32 on the same token ids; the peer is the
plain transformers model with padded batches and an attention mask. Tokenising is in both times.
Times are processor seconds of one thread, which other work on the machine hardly moves.

The token ratio is what the peer runs, padding and repeated prompts included, over what we run. It
bounds the ratio of times, and depends on the sample: a batch of 8 is as long as its longest text,
so the rare long texts of the whole set decide. It is told for the sample and for the whole set.

    python benchmarks/evaluation_speed.py [--rows 64 200]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from results_file import ResultsFile

from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.sources import resolve_model
from rmexp.backbone.text import TextTemplate
from rmexp.evaluation.suites import read_suite
from rmexp.preferences import Pair
from rmexp.preferences.pair import Prompt
from rmexp.reward.model import RewardModel

DATA = Path(os.environ.get("RMEXP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
CACHE = Path(os.environ.get("RMEXP_CACHE_DIR", Path.home() / ".cache" / "rmexp"))
SETS = {"LLMBar + HumanEvalPack": ("llmbar", "humanevalpack"), "hh-rlhf harmless": ("hh",)}
FOLDERS = {"hh": "hh-rlhf"}
TARGETS = {"LLMBar + HumanEvalPack": 2.5, "hh-rlhf harmless": 3.5}
BATCH = 8


def usual_scores(
    model: RewardModel, prompts: Sequence[Prompt], responses: Sequence[str]
) -> NDArray[np.float64]:
    """One pass over one side: batches of 8 in reading order, padded to their longest."""
    network, pad = model.classifier.inner, model.classifier.pad_id
    scores = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        tokens = model.template.encode(prompts[part], responses[part])
        width = max(len(t.ids) for t in tokens)
        ids = torch.full((len(tokens), width), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, item in enumerate(tokens):
            ids[row, : len(item.ids)] = torch.from_numpy(item.ids.astype(np.int64))
            mask[row, : len(item.ids)] = 1
        scores.append(network(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0])
    return torch.cat(scores).double().numpy()


def token_ratio(model: RewardModel, pairs: Sequence[Pair]) -> float:
    """Tokens of two padded passes over those that are run here."""
    prompts = [p.prompt for p in pairs]
    sides = [
        model.template.encode(prompts, [getattr(p, side) for p in pairs])
        for side in ("chosen", "rejected")
    ]
    padded = 0
    for side in sides:
        for start in range(0, len(side), BATCH):
            lengths = [len(t.ids) for t in side[start : start + BATCH]]
            padded += len(lengths) * max(lengths)
    families = [[i, len(pairs) + i] for i in range(len(pairs))]
    rows = model.classifier.rows(sides[0] + sides[1], families, 512, share_beginning=True)
    return padded / sum(r.tokens for r in rows)


def sample(kinds: Sequence[str], rows: int | None) -> list[Pair]:
    """Random rows of some suites, together; None for all, in random order."""
    pairs = [p for k in kinds for p in read_suite(k, DATA / FOLDERS.get(k, k)).pairs]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:rows]
    return [pairs[i] for i in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[64, 200], help="of each set")
    sizes = dict(zip(SETS, parser.parse_args().rows, strict=True))
    torch.set_num_threads(1)
    classifier = load_sequence_classifier(resolve_model("smollm2_135m", CACHE), seed=0)
    template = TextTemplate(classifier.tokenizer, name="chat", max_length=1024, causal=True)
    model = RewardModel(classifier, template)
    model.score(["warm"], ["up"])
    with ResultsFile("evaluation_speed") as results, torch.inference_mode():
        results.line("SmolLM2-135M, random head, float32, one thread; rows drawn with seed 0")
        results.line(
            f"\n{'set':<24}{'pairs':>6}{'usual, pairs/s':>16}{'ours, pairs/s':>15}{'ratio':>7}"
            f"{'target':>8}{'token ratio':>13}{'whole set':>11}{'largest difference':>20}"
        )
        for name, kinds in SETS.items():
            pairs = sample(kinds, sizes[name])
            prompts = [p.prompt for p in pairs]
            sides = [[p.chosen for p in pairs], [p.rejected for p in pairs]]
            started = time.process_time()
            ours = model.score(prompts * 2, sides[0] + sides[1])
            middle = time.process_time()
            usual = np.concatenate([usual_scores(model, prompts, side) for side in sides])
            ended = time.process_time()
            seconds = middle - started, ended - middle
            results.line(
                f"{name:<24}{len(pairs):>6}{len(pairs) / seconds[1]:>16.2f}"
                f"{len(pairs) / seconds[0]:>15.2f}{seconds[1] / seconds[0]:>7.2f}"
                f"{TARGETS[name]:>8.1f}{token_ratio(model, pairs):>13.2f}"
                f"{token_ratio(model, sample(kinds, None)):>11.2f}"
                f"{np.abs(ours - usual).max():>20.1e}"
            )


if __name__ == "__main__":
    main()
