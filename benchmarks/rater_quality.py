"""How well the exemplar rater tells responses apart: on rbr, and as labels of the starter pairs.

rbr: 14 propositions fixed before any score was looked at (benchmarks/rbr_rules.yaml), the mean AUC
against human labels, beside two simpler formulas on the same embeddings. The formula was tuned on
rbr/train and on the training half of the starter pairs alone.
Starter: how often the rule label of a training pair agrees with the human preference, beside the
longer and the shorter response.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rbr_data import exemplar_rules, propositions
from results_file import ResultsFile

from rmexp.backbone.embedding import SentenceEncoder
from rmexp.backbone.sources import resolve_model
from rmexp.labelling import critical_rules, preference_labels
from rmexp.preferences import prompt_text, read_starter, split_by_prompt
from rmexp.rating import Item, RatingStore, rate_pairs
from rmexp.rating.check import auc
from rmexp.rating.exemplar import ExemplarRater
from rmexp.rules import Rule
from rmexp.rules.load import load_rule_set


def whole_text_scores(
    encoder: SentenceEncoder, items: Sequence[Item], rules: Sequence[Rule], with_prompt: bool
) -> NDArray[np.float32]:
    """The plain formula: cosine to the mean following minus to the mean breaking example."""

    def embed(pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        return encoder.embed([f"{p}\n{r}" if with_prompt else r for p, r in pairs])

    texts = embed([(prompt_text(item.prompt), item.response) for item in items])
    scores = np.empty((len(items), len(rules)), np.float32)
    for column, rule in enumerate(rules):
        follows = embed([(e.prompt, e.response) for e in rule.follows]).mean(axis=0)
        breaks = embed([(e.prompt, e.response) for e in rule.breaks]).mean(axis=0)
        scores[:, column] = texts @ (follows - breaks)
    return scores


def rbr(results: ResultsFile, encoder: SentenceEncoder) -> None:
    rules = exemplar_rules()
    rater = ExemplarRater(encoder)
    for split in ("train", "test"):
        data = propositions(split)
        labels = data.labels[:, [data.names.index(rule.id) for rule in rules]]
        formulas = {
            "exemplar rater": rater.rate(data.items, rules).psi,
            "response centroids": whole_text_scores(encoder, data.items, rules, False),
            "prompt + response centroids": whole_text_scores(encoder, data.items, rules, True),
        }
        results.line(f"\nrbr/{split}, AUC" + (" (tuned here)" if split == "train" else ""))
        header = "".join(f"{name:>30}" for name in formulas)
        results.line(f"{'proposition':<38}{'positives':>10}{header}")
        areas = np.array(
            [[auc(s[:, j], labels[:, j]) for s in formulas.values()] for j in range(len(rules))]
        )
        for rule, count, row in zip(rules, labels.sum(axis=0), areas, strict=True):
            results.line(f"{rule.id:<38}{count:>10}" + "".join(f"{v:>30.3f}" for v in row))
        mean = "".join(f"{v:>30.3f}" for v in areas.mean(axis=0))
        results.line(f"{f'mean of {len(rules)}':<48}{mean}")


def starter(results: ResultsFile, encoder: SentenceEncoder) -> None:
    split = split_by_prompt(read_starter().pairs, train=0.5, validation=0.15, test=0.35, seed=0)
    pairs = split.train
    human = np.array([pair.preference == "a" for pair in pairs])
    longer = np.array([len(pair.response_a) > len(pair.response_b) for pair in pairs])
    results.line(f"\nstarter pairs, training half ({len(pairs)}): agreement with the human")
    results.line(f"longer response {(longer == human).mean():.3f}")
    settings = [(1, 0.0), (3, 0.3), (5, 0.0), (5, 0.3), (5, 1.0), (10, 0.3)]
    head = "".join(f"{f'r={r} gamma={g:g}':>16}" for r, g in settings)
    results.line(f"{'rules':<12}{head}{'all rules':>16}")
    for name in ("core20", "safety100"):
        rules = load_rule_set(name)
        with tempfile.TemporaryDirectory() as folder, RatingStore(folder) as store:
            ratings = rate_pairs(pairs, rules, ExemplarRater(encoder), store)
        shares = [
            _agreement(ratings.psi_a, ratings.psi_b, ratings.relevance, r, gamma, human)
            for r, gamma in [*settings, (len(rules), 0.0)]
        ]
        results.line(f"{name:<12}" + "".join(f"{share:>16.3f}" for share in shares))


def _agreement(
    psi_a: NDArray[np.float32],
    psi_b: NDArray[np.float32],
    relevance: NDArray[np.float32],
    r: int,
    gamma: float,
    human: NDArray[np.bool_],
) -> float:
    critical = critical_rules(psi_a, psi_b, relevance, r, gamma)
    labels = preference_labels(psi_a, psi_b, critical)
    kept = labels.kept
    return float(((labels.preferred == 1) == human)[kept].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rmexp").expanduser())
    arguments = parser.parse_args()
    encoder = SentenceEncoder(resolve_model("minilm", arguments.cache))
    with ResultsFile("rater_quality") as results:
        rbr(results, encoder)
        starter(results, encoder)


if __name__ == "__main__":
    main()
