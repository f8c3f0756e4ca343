"""Probes trained on rbr/train, their AUC on rbr/test, beside plain logistic heads.

Over the propositions with at least 8 positive responses in both splits. The features and penalties
were chosen by cross-validation on rbr/train alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rbr_data import propositions
from results_file import ResultsFile
from sklearn.linear_model import LogisticRegression

from rmexp.backbone.embedding import SentenceEncoder
from rmexp.backbone.sources import resolve_model
from rmexp.rating.check import auc, check_rater
from rmexp.rating.probe import ProbeRater, fit_probe
from rmexp.rules import Rule

LEAST_POSITIVES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rmexp").expanduser())
    arguments = parser.parse_args()
    encoder = SentenceEncoder(resolve_model("minilm", arguments.cache))
    train, test = propositions("train"), propositions("test")
    counts = np.minimum(train.labels.sum(axis=0), test.labels.sum(axis=0))
    kept = np.flatnonzero(counts >= LEAST_POSITIVES)
    rules = [Rule(train.names[i], f"{train.names[i]} holds", "rbr") for i in kept]
    taught, asked = train.labels[:, kept].astype(np.float32), test.labels[:, kept]
    with ResultsFile("probe_quality") as results:
        probe = fit_probe(train.items, rules, taught, encoder)
        checks = check_rater(ProbeRater(probe, encoder), test.items, rules, asked)
        known = encoder.embed([item.response for item in train.items])
        unknown = encoder.embed([item.response for item in test.items])
        plain = []
        for column in range(len(rules)):
            model = LogisticRegression(max_iter=1000).fit(known, taught[:, column] == 1)
            plain.append(auc(model.decision_function(unknown), asked[:, column]))
        results.line(
            f"{'proposition':<38}{'train +':>9}{'C':>6}{'cv AUC':>8}{'test +':>8}{'test AUC':>10}"
            f"{'plain AUC':>11}{'agreement':>11}{'base':>7}{'ECE':>7}"
        )
        for head, check, area in zip(probe.heads, checks, plain, strict=True):
            results.line(
                f"{head.rule_id:<38}{head.positives:>9}{head.penalty:>6.0f}{head.auc:>8.3f}"
                f"{check.positives:>8}{check.auc:>10.3f}{area:>11.3f}{check.agreement:>11.3f}"
                f"{check.base_rate:>7.3f}{check.calibration_error:>7.3f}"
            )
        results.line(
            f"mean of {len(rules)}: cv {np.mean([h.auc for h in probe.heads]):.3f}, "
            f"test {np.mean([c.auc for c in checks]):.3f}, "
            f"plain logistic on the response's embedding {np.mean(plain):.3f}"
        )


if __name__ == "__main__":
    main()
