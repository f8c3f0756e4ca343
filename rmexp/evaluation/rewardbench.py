"""RewardBench 1: pairs in 23 subsets, four sections, and the prior sets.

Lambert et al., "RewardBench: Evaluating Reward Models for Language Modeling" (arXiv 2403.13787).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.evaluation.bench_schema import dialogue, prompt_of, require_columns
from rmexp.evaluation.figures import Figure, Part
from rmexp.evaluation.result_files import PARTIAL
from rmexp.evaluation.scorer import Scorer, checked_scores
from rmexp.preferences.pair import Prompt, prompt_text
from rmexp.preferences.read import file_rows, hub_rows
from rmexp.statistics import (
    Calibration,
    Interval,
    LengthBias,
    length_bias,
    margin_calibration,
)

# The counts are the weights of the reference. math-prm has 447 rows and weighs as much as all code.
SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        # Swapped in the reference code until September 2024, and in some scripts still.
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
# The prior sets, with the rows that they have.
PRIOR_SETS = {"anthropic_helpful": 6192, "anthropic_hhh": 221, "shp": 1741, "summarize": 9000}
_WEIGHTS = {subset: n for section in SECTIONS.values() for subset, n in section.items()}
_ROWS = {**_WEIGHTS, **PRIOR_SETS, "math-prm": 447}
_PARTS = {**SECTIONS, "Prior": PRIOR_SETS}
_ANSWER = "xstest-should-respond"
_SECTION_WEIGHT, _PRIOR_WEIGHT = 2, 1
_FUNCTION = re.compile(r"`[^`(]*?(\w+)[ =]*\(")


@dataclass(frozen=True, slots=True)
class RewardBenchRow:
    """One pair of RewardBench 1 or of a prior set."""

    id: str | int
    prompt: Prompt
    chosen: str
    rejected: str
    subset: str


@dataclass(frozen=True)
class RewardBenchResult:
    """Scores of all rows, and what follows from them.

    Attributes:
        rows: ``[rows]``.
        chosen_scores: ``[rows]``.
        rejected_scores: ``[rows]``.
        subsets: subset to accuracy.
        sections: as :func:`section_scores` gives them.
        figures: the sections, the overall score and the prior sets, with the rows they are made of.
        intervals: of each of them and of each subset: percentile bootstrap, rows resampled within
            their subset, so that the weights stay what they are. What is not independent is drawn
            together, in all subsets at once: rows of one prompt, and a HumanEval task in its six
            languages.
        longer: section scores of always preferring the longer response.
        partial: sections, and Prior, that lack rows of the published set.
        ties: rows with equal scores, which are wrong.
        length: the accuracy over all rows split by length.
        calibration: of sigmoid(margin) over all rows.
    """

    rows: tuple[RewardBenchRow, ...]
    chosen_scores: NDArray[np.float64]
    rejected_scores: NDArray[np.float64]
    subsets: dict[str, float]
    sections: dict[str, float]
    figures: tuple[Figure, ...]
    intervals: dict[str, Interval]
    longer: dict[str, float]
    partial: tuple[str, ...]
    ties: int
    length: LengthBias
    calibration: Calibration

    def metrics(self) -> dict[str, float]:
        """Flat numbers: sections, overall and subsets by their names; ``NAME_low``, ``_high``."""
        bounds = {f"{name}_low": i.low for name, i in self.intervals.items()}
        bounds |= {f"{name}_high": i.high for name, i in self.intervals.items()}
        longer = {f"baseline_longer {name}": value for name, value in self.longer.items()}
        return {
            **self.subsets,
            **self.sections,
            **bounds,
            **longer,
            "ties": float(self.ties),
            **length_metrics(self.length),
            "calibration_error": self.calibration.ece,
            **_refusals(self.rows, self.chosen_scores > self.rejected_scores),
        }

    @property
    def scores_of_texts(self) -> NDArray[np.float64]:
        """All scores, the chosen first, ``[2 * rows]``."""
        return np.concatenate([self.chosen_scores, self.rejected_scores])

    def reference_files(self) -> dict[str, dict[str, Any]]:
        """What the reference's result and score files hold, by their folder.

        The prior sets have folders of their own: tools take every number of a file in
        ``eval-set`` for one of the 23 subsets. What lacks rows lies in a folder that says so.
        """
        files: dict[str, dict[str, Any]] = {}
        columns = self.reference_rows()
        counts = Counter(columns["subset"])
        for kind, wanted in (("eval-set", _WEIGHTS), ("pref-sets", PRIOR_SETS)):
            kept = [i for i, subset in enumerate(columns["subset"]) if subset in wanted]
            if kept:
                mark = PARTIAL if _lacks_rows(counts, wanted) else ""
                folder = f"rewardbench{mark}/{kind}"
                files[folder] = {s: score for s, score in self.subsets.items() if s in wanted}
                files[f"{folder}-scores"] = {
                    name: [column[i] for i in kept] for name, column in columns.items()
                }
        return files

    def reference_rows(self) -> dict[str, list[Any]]:
        """Per-row scores, by column, as the reference's score file holds them."""
        return {
            "id": [row.id for row in self.rows],
            "subset": [row.subset for row in self.rows],
            "text_chosen": [dialogue(row.prompt, row.chosen) for row in self.rows],
            "text_rejected": [dialogue(row.prompt, row.rejected) for row in self.rows],
            "scores_chosen": self.chosen_scores.tolist(),
            "scores_rejected": self.rejected_scores.tolist(),
            "results": (self.chosen_scores > self.rejected_scores).astype(int).tolist(),
        }


def section_scores(subset_accuracies: Mapping[str, float]) -> dict[str, float]:
    """Section scores and the overall score.

    A section is the mean of its subsets that are there, weighted by the published counts; one
    with none is absent. Prior is the plain mean of the four prior sets, absent unless all are
    there. Overall needs all four sections: their mean, weight 2 each, with Prior at weight 1 where
    it is there.

    Args:
        subset_accuracies: subset or prior set to accuracy.

    Raises:
        ValueError: an unknown subset, or an accuracy that is no finite number, named.

    >>> section_scores({"mt-bench-easy": 1.0, "mt-bench-med": 0.5})["Chat"]
    0.7058823529411765
    """
    for subset, accuracy in subset_accuracies.items():
        if subset not in _WEIGHTS and subset not in PRIOR_SETS:
            raise ValueError(f"subset '{subset}' is not of RewardBench")
        if not math.isfinite(accuracy):
            raise ValueError(f"subset '{subset}': the accuracy is {accuracy}")
    scores: dict[str, float] = {}
    for section, weights in SECTIONS.items():
        present = {s: n for s, n in weights.items() if s in subset_accuracies}
        if present:
            total = sum(subset_accuracies[s] * n for s, n in present.items())
            scores[section] = float(total / sum(present.values()))
    complete = len(scores) == len(SECTIONS)
    prior = [float(subset_accuracies[s]) for s in PRIOR_SETS if s in subset_accuracies]
    if len(prior) == len(PRIOR_SETS):
        scores["Prior"] = sum(prior) / len(prior)
    if complete:
        parts = [(scores[section], _SECTION_WEIGHT) for section in SECTIONS]
        if "Prior" in scores:
            parts.append((scores["Prior"], _PRIOR_WEIGHT))
        scores["overall"] = sum(s * w for s, w in parts) / sum(w for _, w in parts)
    return scores


def read_rewardbench(path: Path | str | None = None) -> list[RewardBenchRow]:
    """The rows of a local file of the published schema, or of ``allenai/reward-bench``.

    Raises:
        UserError: naming the file and row.
    """
    if path is not None:
        return _checked_rows(file_rows(Path(path)))
    return _checked_rows(hub_rows("allenai/reward-bench", split="filtered"))


def read_prior_sets(path: Path | str | None = None) -> list[RewardBenchRow]:
    """The prior sets: a local file whose ``subset`` names them, or ``allenai/pref-test-sets``.

    Raises:
        UserError: naming the file and row.
    """
    if path is not None:
        return _checked_rows(file_rows(Path(path)))
    return [
        row
        for name in PRIOR_SETS
        for row in _checked_rows(
            (where, {**row, "id": f"{name}:{number}", "subset": name})
            for number, (where, row) in enumerate(hub_rows("allenai/pref-test-sets", split=name))
        )
    ]


def evaluate_rewardbench(
    scorer: Scorer, rows: Sequence[RewardBenchRow], *, seed: int = 0
) -> RewardBenchResult:
    """Score all rows. A row is right iff chosen is above rejected, strictly.

    Raises:
        UserError: no row.
        ScoreError: a score that is no finite number, naming its row.
    """
    if not rows:
        raise UserError("RewardBench: no row to evaluate on")
    prompts = [row.prompt for row in rows]
    texts = [[row.chosen for row in rows], [row.rejected for row in rows]]
    names = [f"{row.id} ({side})" for side in ("chosen", "rejected") for row in rows]
    scores = checked_scores(scorer, prompts + prompts, texts[0] + texts[1], names)
    chosen, rejected = scores[: len(rows)], scores[len(rows) :]
    lengths = [np.array([len(text) for text in side]) for side in texts]
    members: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        members.setdefault(row.subset, []).append(place)

    def accuracies(right: NDArray[np.bool_]) -> dict[str, float]:
        return {subset: float(right[at].mean()) for subset, at in members.items()}

    subsets = accuracies(chosen > rejected)
    counts = {subset: len(at) for subset, at in members.items()}
    sections = section_scores(subsets)
    right = {s: (chosen > rejected)[at].astype(np.float64) for s, at in members.items()}
    groups = {s: tuple(_group(rows[i]) for i in at) for s, at in members.items()}
    figures = _figures(sections, right, groups)
    of_subsets = (Figure(s, (Part(1.0, right[s], groups[s]),)) for s in right)
    return RewardBenchResult(
        rows=tuple(rows),
        chosen_scores=chosen,
        rejected_scores=rejected,
        subsets=subsets,
        sections=sections,
        figures=figures,
        intervals={f.name: f.interval(seed=seed) for f in (*of_subsets, *figures)},
        longer=section_scores(accuracies(lengths[0] > lengths[1])),
        partial=_partial(counts),
        ties=int((chosen == rejected).sum()),
        length=length_bias(chosen, rejected, lengths[0], lengths[1]),
        calibration=margin_calibration(chosen - rejected),
    )


def length_metrics(length: LengthBias) -> dict[str, float]:
    """How far length explains the scores, under the names that all suites use."""
    numbers = {
        "accuracy_where_longer_preferred": length.accuracy_longer,
        "accuracy_where_shorter_preferred": length.accuracy_shorter,
        "accuracy_length_matched": length.accuracy_matched,
        "length_correlation": length.correlation,
    }
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def _group(row: RewardBenchRow) -> Hashable:
    """What rows that are not independent share: the prompt, or the task that it states."""
    text = prompt_text(row.prompt)
    if row.subset.startswith("hep-") and (function := _FUNCTION.search(text)):
        # HasCloseElements in Go is has_close_elements in Rust.
        return "hep", function[1].replace("_", "").lower()
    return text


def _figures(
    sections: Mapping[str, float],
    values: Mapping[str, NDArray[np.float64]],
    groups: Mapping[str, tuple[Hashable, ...]],
) -> tuple[Figure, ...]:
    """The sections that are there and the overall score as weighted sums of subsets; prior sets."""
    weights: dict[str, dict[str, float]] = {}
    for section, counts in SECTIONS.items():
        present = {s: n for s, n in counts.items() if s in values}
        weights[section] = {s: n / sum(present.values()) for s, n in present.items()}
    if "Prior" in sections:
        weights["Prior"] = dict.fromkeys(PRIOR_SETS, 1 / len(PRIOR_SETS))
    share = {name: _PRIOR_WEIGHT if name == "Prior" else _SECTION_WEIGHT for name in weights}
    weights["overall"] = {
        s: share[name] / sum(share.values()) * w for name in share for s, w in weights[name].items()
    }
    rows = {
        name: (sum(len(values.get(s, ())) for s in counts), sum(_ROWS[s] for s in counts))
        for name, counts in _PARTS.items()
    }
    there = [rows[name] for name in weights if name in rows]
    rows["overall"] = (sum(n for n, _ in there), sum(of for _, of in there))
    figures = [
        Figure(
            name,
            tuple(Part(w, values[s], groups[s]) for s, w in weights[name].items()),
            rows[name],
        )
        for name in sections
    ]
    figures += [
        Figure(s, (Part(1.0, values[s], groups[s]),), (len(values[s]), PRIOR_SETS[s]))
        for s in PRIOR_SETS
        if s in values
    ]
    return tuple(figures)


def _refusals(rows: Sequence[RewardBenchRow], right: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy where answering is right (over-refusal), and where refusing is."""
    answer = np.array([row.subset == _ANSWER for row in rows])
    refuse = np.array([row.subset in SECTIONS["Safety"] for row in rows]) & ~answer
    named = {"over_refusal_accuracy": answer, "under_refusal_accuracy": refuse}
    return {name: float(right[at].mean()) for name, at in named.items() if at.any()}


def _partial(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Sections, and Prior, that are begun and lack rows."""
    return tuple(
        name
        for name, subsets in _PARTS.items()
        if any(s in counts for s in subsets) and _lacks_rows(counts, subsets)
    )


def _lacks_rows(counts: Mapping[str, int], subsets: Iterable[str]) -> bool:
    return any(counts.get(s, 0) < _ROWS[s] for s in subsets)


def _checked_rows(rows: Iterable[tuple[str, Any]]) -> list[RewardBenchRow]:
    return list(_each_checked(rows))


def _each_checked(rows: Iterable[tuple[str, Any]]) -> Iterator[RewardBenchRow]:
    for where, row in rows:
        require_columns(where, row, ("prompt", "chosen", "rejected", "subset", "id"))
        subset = str(row["subset"])
        if subset not in _WEIGHTS and subset not in PRIOR_SETS:
            raise UserError(
                f"{where}: subset '{subset}' is not of RewardBench; read other pairs with data.path"
            )
        for side in ("chosen", "rejected"):
            if not isinstance(row[side], str):
                raise UserError(f"{where}: '{side}' is not a text")
        prompt = prompt_of(where, row["prompt"])
        yield RewardBenchRow(row["id"], prompt, row["chosen"], row["rejected"], subset)
