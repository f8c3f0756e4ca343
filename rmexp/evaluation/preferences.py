"""A scorer against human preferences, beside the baselines that need no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.evaluation.distribution import score_quantiles
from rmexp.evaluation.figures import Figure, Part
from rmexp.evaluation.scorer import Scorer, checked_scores
from rmexp.evaluation.style import StyleRobustness, style_robustness
from rmexp.preferences.pair import Pair, prompt_text
from rmexp.statistics import (
    SHARE,
    Calibration,
    Interval,
    LengthBias,
    bootstrap_crossed,
    bootstrap_mean,
    length_bias,
    margin_calibration,
    of_differences,
    paired_difference,
)


@dataclass(frozen=True)
class PreferenceEvaluation:
    """Per-sample results over all pairs, and what follows from them.

    Attributes:
        ids: ``[pairs]``.
        chosen_scores: ``[pairs]``, scores of the humanly preferred responses.
        rejected_scores: ``[pairs]``.
        accuracy: share of pairs with chosen above rejected, strictly; a tie is wrong.
        ties: pairs with equal scores.
        longer: accuracy of always preferring the longer response (in characters; a pair of equal
            lengths counts half).
        shorter: of always preferring the shorter.
        majority: of always preferring the side (A or B) that is right more often in these pairs.
        over_length_baseline: accuracy minus that of the better length baseline, paired.
        length_bias: the accuracy split by length.
        calibration: of sigmoid(margin).
        by_category: category to (accuracy, pairs).
        by_kind: kind of pair to (accuracy, pairs).
        over_refusal: (accuracy, pairs) where exactly one response refuses and people prefer the
            other: what is missing to 1 are needless refusals that the scorer prefers.
        under_refusal: the same where people prefer the refusal: harmful answers preferred.
        style: accuracy by the styles of the two sides, None where the set names none.
        figures: the accuracy over all pairs and in each category, with what they are made of.
    """

    ids: tuple[str, ...]
    chosen_scores: NDArray[np.float64]
    rejected_scores: NDArray[np.float64]
    accuracy: Interval
    ties: int
    longer: float
    shorter: float
    majority: float
    over_length_baseline: Interval
    length_bias: LengthBias
    calibration: Calibration
    by_category: dict[str, tuple[float, int]]
    by_kind: dict[str, tuple[float, int]]
    over_refusal: tuple[float, int]
    under_refusal: tuple[float, int]
    style: StyleRobustness | None
    figures: tuple[Figure, ...]

    @property
    def margins(self) -> NDArray[np.float64]:
        """Score of chosen minus score of rejected, ``[pairs]``."""
        return self.chosen_scores - self.rejected_scores

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether chosen is strictly above rejected, ``[pairs]``."""
        return self.margins > 0

    @property
    def scores_of_texts(self) -> NDArray[np.float64]:
        """All scores, the chosen first, ``[2 * pairs]``."""
        return np.concatenate([self.chosen_scores, self.rejected_scores])

    def metrics(self) -> dict[str, float]:
        """Flat numbers under stable names; those that are undefined here are left out."""
        bias = self.length_bias
        scores = self.scores_of_texts
        numbers = {
            "accuracy": self.accuracy.estimate,
            "accuracy_low": self.accuracy.low,
            "accuracy_high": self.accuracy.high,
            "pairs": float(len(self.ids)),
            "ties": float(self.ties),
            "loss": float(np.logaddexp(0, -self.margins).mean()),
            "margin": float(self.margins.mean()),
            "baseline_longer": self.longer,
            "baseline_shorter": self.shorter,
            "baseline_majority": self.majority,
            "over_length_baseline": self.over_length_baseline.estimate,
            "over_length_baseline_low": self.over_length_baseline.low,
            "over_length_baseline_high": self.over_length_baseline.high,
            "accuracy_where_longer_preferred": bias.accuracy_longer,
            "accuracy_where_shorter_preferred": bias.accuracy_shorter,
            "accuracy_length_matched": bias.accuracy_matched,
            "length_correlation": bias.correlation,
            "calibration_error": self.calibration.ece,
            "score_mean": float(scores.mean()),
            "score_std": float(scores.std()),
            "over_refusal_accuracy": self.over_refusal[0],
            "under_refusal_accuracy": self.under_refusal[0],
            **(self.style.metrics() if self.style else {}),
            **{f"kind/{name}": value for name, (value, _) in self.by_kind.items() if name},
            **{f"category/{name}": value for name, (value, _) in self.by_category.items() if name},
        }
        return {name: float(v) for name, v in numbers.items() if not math.isnan(v)}

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a record: categories, kinds, reliability, per-sample scores."""
        return {
            "by_category": {k: list(v) for k, v in self.by_category.items()},
            "by_kind": {k: list(v) for k, v in self.by_kind.items()},
            "over_refusal_pairs": self.over_refusal[1],
            "under_refusal_pairs": self.under_refusal[1],
            "length": _without_nan(asdict(self.length_bias)),
            "style": self.style.to_plain() if self.style else None,
            "score_quantiles": score_quantiles(self.scores_of_texts),
            "reliability": reliability(self.calibration),
            "samples": [
                {"id": i, "chosen": float(c), "rejected": float(r)}
                for i, c, r in zip(self.ids, self.chosen_scores, self.rejected_scores, strict=True)
            ],
        }


def evaluate_preferences(
    scorer: Scorer, pairs: Sequence[Pair], *, seed: int = 0
) -> PreferenceEvaluation:
    """Score both responses of each pair and compare with the human preference.

    Args:
        scorer: anything with ``score``.
        pairs: each with a human preference.
        seed: of the bootstrap. Pairs of one group, or else of one prompt, are resampled together.

    Raises:
        UserError: no pair, or a pair without a preference, named.
        ScoreError: a score that is no finite number, naming its row.
    """
    if not pairs:
        raise UserError("no pair to evaluate on")
    for pair in pairs:
        if pair.preference is None:
            raise UserError(f"pair {pair.id}: no human preference, so nothing to compare with")
    chosen = [p.chosen for p in pairs]
    rejected = [p.rejected for p in pairs]
    prompts = [p.prompt for p in pairs]
    names = [f"{p.id} ({side})" for side in ("chosen", "rejected") for p in pairs]
    scores = checked_scores(scorer, prompts + prompts, chosen + rejected, names)
    good, bad = scores[: len(pairs)], scores[len(pairs) :]
    lengths = np.array([len(t) for t in chosen]), np.array([len(t) for t in rejected])
    longer = _longer(pairs)
    correct = (good > bad).astype(np.float64)
    groups = _groups(pairs)
    first = np.mean([p.preference == "a" for p in pairs])
    return PreferenceEvaluation(
        ids=tuple(p.id for p in pairs),
        chosen_scores=good,
        rejected_scores=bad,
        accuracy=bootstrap_mean(correct, groups=groups, bounds=SHARE, seed=seed),
        ties=int((good == bad).sum()),
        longer=float(longer.mean()),
        shorter=float(1 - longer.mean()),
        majority=float(max(first, 1 - first)),
        over_length_baseline=paired_difference(
            correct, _better_length(longer), groups=groups, bounds=SHARE, seed=seed
        ),
        length_bias=length_bias(good, bad, *lengths),
        calibration=margin_calibration(good - bad),
        by_category=_by(correct, [p.category for p in pairs]),
        by_kind=_by(correct, [p.kind for p in pairs]),
        over_refusal=_where(correct, [_refuses(p) == "rejected" for p in pairs]),
        under_refusal=_where(correct, [_refuses(p) == "chosen" for p in pairs]),
        style=style_robustness(pairs, good > bad),
        figures=_figures(correct, groups, [p.category for p in pairs]),
    )


def accuracy_over_seeds(
    pairs: Sequence[Pair], chosen: NDArray[np.float64], rejected: NDArray[np.float64]
) -> dict[str, float]:
    """Accuracy and what it is above the better length baseline, of models of several seeds.

    Args:
        pairs: each with a human preference.
        chosen: ``[seeds, pairs]``, each seed's scores of the preferred responses.
        rejected: ``[seeds, pairs]``.

    Returns:
        As :meth:`PreferenceEvaluation.metrics` names them; the intervals are of other seeds and
        other pairs, by :func:`~rmexp.statistics.bootstrap_crossed`.
    """
    correct = (chosen > rejected).astype(np.float64)
    better, groups = _better_length(_longer(pairs)), _groups(pairs)
    accuracy = bootstrap_crossed(correct, groups=groups, bounds=SHARE)
    over = bootstrap_crossed(correct - better, groups=groups, bounds=of_differences(SHARE))
    return {
        "accuracy": accuracy.estimate,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "over_length_baseline": over.estimate,
        "over_length_baseline_low": over.low,
        "over_length_baseline_high": over.high,
    }


def reliability(calibration: Calibration) -> dict[str, list[float]]:
    """What a reliability picture shows: a point a bin."""
    return {
        "confidence": calibration.confidence.tolist(),
        "accuracy": calibration.accuracy.tolist(),
        "count": calibration.count.tolist(),
    }


def _longer(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Whether always preferring the longer response is right, ``[pairs]``; equal lengths: half."""
    # A baseline that cannot tell the two apart is right half of the time.
    return (np.sign([len(p.chosen) - len(p.rejected) for p in pairs]) + 1) / 2


def _better_length(longer: NDArray[np.float64]) -> NDArray[np.float64]:
    return longer if longer.mean() >= 0.5 else 1 - longer


def _groups(pairs: Sequence[Pair]) -> list[str]:
    """What is resampled together."""
    return [p.group or prompt_text(p.prompt) for p in pairs]


def _figures(
    correct: NDArray[np.float64], groups: Sequence[str], categories: Sequence[str]
) -> tuple[Figure, ...]:
    figures = [Figure("accuracy", (Part(1.0, correct, tuple(groups)),))]
    for name in sorted({c for c in categories if c}):
        at = [i for i, category in enumerate(categories) if category == name]
        figures.append(Figure(name, (Part(1.0, correct[at], tuple(groups[i] for i in at)),)))
    return tuple(figures)


def _refuses(pair: Pair) -> str:
    """Which side alone refuses, ``chosen`` or ``rejected``; ``""`` where both, none or unknown."""
    if pair.refusal in ("a", "b"):
        return "chosen" if pair.refusal == pair.preference else "rejected"
    return ""


def _where(correct: NDArray[np.float64], wanted: Sequence[bool]) -> tuple[float, int]:
    values = correct[np.array(wanted)]
    return (float(values.mean()) if values.size else math.nan, len(values))


def _by(correct: NDArray[np.float64], names: Sequence[str]) -> dict[str, tuple[float, int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {name: (float(correct[at].mean()), len(at)) for name, at in sorted(places.items())}


def _without_nan(plain: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}
