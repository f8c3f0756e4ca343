"""Several scorers on one set, each against the first, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rmexp.errors import UserError
from rmexp.evaluation.distribution import ScoreDrift, score_drift
from rmexp.evaluation.figures import difference
from rmexp.evaluation.published import PUBLISHED
from rmexp.evaluation.scorer import Scorer
from rmexp.evaluation.sets import EvaluationSet, SetResult, evaluate_set
from rmexp.statistics import Interval


@dataclass(frozen=True)
class Comparison:
    """Results on the same rows.

    Attributes:
        of: the set.
        results: model to result, the first being what the others are compared with.
        differences: other model to figure to (other minus first), paired over rows.
        drift: other model to how its scores have moved from the first's.
        published: published model to figure; for RewardBench only, not measured here.
        read_as: model to how it read the texts: template, max_length and precision, where known.
        contamination: model to what it has seen of the set in training, where that is known.
    """

    of: EvaluationSet
    results: dict[str, SetResult]
    differences: dict[str, dict[str, Interval]]
    drift: dict[str, ScoreDrift]
    published: dict[str, dict[str, float]]
    read_as: dict[str, dict[str, Any]] = field(default_factory=dict)
    contamination: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """What the others are compared with."""
        return next(iter(self.results))

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a result file."""
        return {
            "suite": self.of.name,
            "licence": self.of.licence,
            "compared_with": self.first,
            "results": {name: result.to_plain() for name, result in self.results.items()},
            "differences": {
                name: {
                    figure: {"estimate": d.estimate, "low": d.low, "high": d.high}
                    for figure, d in figures.items()
                }
                for name, figures in self.differences.items()
            },
            "drift": {name: drift.metrics() for name, drift in self.drift.items()},
            "published": self.published,
            "read_as": self.read_as,
            "contamination": self.contamination,
        }


def compare(scorers: Mapping[str, Scorer], of: EvaluationSet, *, seed: int = 0) -> Comparison:
    """Score a set with several models and compare each with the first.

    Args:
        scorers: two or more, by name.
        of: the set.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than two models, or no row.
        ScoreError: a score that is no finite number, naming its row.
    """
    _two_or_more(len(scorers))
    results = {name: evaluate_set(scorer, of, seed=seed) for name, scorer in scorers.items()}
    return compare_results(results, of, seed=seed)


def compare_results(
    results: Mapping[str, SetResult], of: EvaluationSet, *, seed: int = 0
) -> Comparison:
    """The same from results on the set, for models that do not fit into memory side by side.

    Args:
        results: of two models or more, by name.
        of: the set.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than two models.
    """
    _two_or_more(len(results))
    (_, first), *others = results.items()
    return Comparison(
        of,
        dict(results),
        differences={name: _differences(first, other, seed) for name, other in others},
        drift={name: score_drift(first.scores, other.scores) for name, other in others},
        published=PUBLISHED.get(of.kind, {}),
    )


def _two_or_more(models: int) -> None:
    if models < 2:
        raise UserError(f"compare: two models or more are needed, got {models}")


def _differences(first: SetResult, other: SetResult, seed: int) -> dict[str, Interval]:
    return {
        figure.name: difference(figure, with_first, seed=seed)
        for figure, with_first in zip(other.figures, first.figures, strict=True)
    }
