"""Evaluation sets of every kind, and the result of a scorer on one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.evaluation.distribution import score_quantiles
from rmexp.evaluation.figures import Figure
from rmexp.evaluation.preferences import PreferenceEvaluation, evaluate_preferences, reliability
from rmexp.evaluation.rewardbench import (
    RewardBenchResult,
    RewardBenchRow,
    evaluate_rewardbench,
    read_prior_sets,
    read_rewardbench,
)
from rmexp.evaluation.rewardbench2 import (
    TIES,
    RewardBench2Result,
    RewardBench2Row,
    evaluate_rewardbench2,
    read_rewardbench2,
)
from rmexp.evaluation.sampling import stratified_sample
from rmexp.evaluation.scorer import Scorer, how_scored
from rmexp.evaluation.suites import SUITES, Suite, read_pairs_suite, read_suite
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences.pair import Pair, Prompt

# RewardBench's own; the sets that it is made of keep theirs.
_LICENCE = "ODC-BY, and those of the sets it is made of"
HUB = "hub"


@dataclass(frozen=True)
class EvaluationSet:
    """Rows of one kind under a name.

    Attributes:
        kind: ``pairs``, ``rewardbench``, ``rewardbench2``, ``prior_sets``, ``file`` or a key of
            :data:`~rmexp.evaluation.suites.SUITES`.
        name: what to call a figure on it.
        licence: of the data.
        rows: pairs, or rows of RewardBench 1 or 2.
        suite: the local suite that the rows come from, if any.
        whole: of a sample, section to rows of the set that it was drawn from; else empty.
    """

    kind: str
    name: str
    licence: str
    rows: tuple[Any, ...]
    suite: Suite | None = None
    whole: Mapping[str, int] = field(default_factory=dict)

    @property
    def prompts(self) -> list[Prompt]:
        """Of all rows."""
        return [row.prompt for row in self.rows]

    @property
    def ids(self) -> list[str]:
        """Of all rows."""
        return [str(row.id) for row in self.rows]

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity by content and order."""
        # Every field of a row: metrics group by most of them, by styles, refusals and kinds too.
        return fingerprint("evaluation_set", of=self.kind, rows=[astuple(row) for row in self.rows])

    @property
    def sampled(self) -> tuple[int, int] | None:
        """Rows there and rows of the set that this is a sample of; None where it is none."""
        return (len(self.rows), sum(self.whole.values())) if self.whole else None

    def sample(self, count: int, seed: int = 0) -> EvaluationSet:
        """A random sample of the rows in their order; all of them where there are no more.

        Each section gives rows in proportion to its size, and one at least where ``count`` allows
        it. Of RewardBench 2's Ties both rows of an N come together, as they are scored together,
        so that it may be a row fewer.
        """
        if count >= len(self.rows):
            return self
        sections = [_section(row) for row in self.rows]
        together = [_together(row) or place for place, row in enumerate(self.rows)]
        drawn = stratified_sample(sections, together, count, seed)
        rows = tuple(self.rows[i] for i in drawn)
        suite = None if self.suite is None else replace(self.suite, pairs=rows)
        whole = self.whole or Counter(sections)
        return replace(self, rows=rows, suite=suite, whole=whole)


@dataclass(frozen=True)
class SetResult:
    """A scorer on an evaluation set.

    Attributes:
        of: the set.
        figures: numbers with intervals, and what they are made of.
        metrics: flat numbers by stable names.
        detail: the result of the set's own kind.
        scored: how the texts were scored, as :func:`~rmexp.evaluation.scorer.how_scored` has it.
    """

    of: EvaluationSet
    figures: tuple[Figure, ...]
    metrics: dict[str, float]
    detail: PreferenceEvaluation | RewardBenchResult | RewardBench2Result
    scored: dict[str, Any] | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """Of all texts, in an order that depends on the set alone."""
        return self.detail.scores_of_texts

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a result file."""
        suite = self.of.suite
        if isinstance(self.detail, PreferenceEvaluation):
            hidden = self.detail.to_plain()
        else:
            hidden = {
                "score_quantiles": score_quantiles(self.scores),
                "reliability": reliability(self.detail.calibration),
                "rows": {
                    # The texts stand in the set.
                    name: column
                    for name, column in self.detail.reference_rows().items()
                    if not name.startswith("text")
                },
            }
        return {
            "suite": self.of.name,
            "kind": self.of.kind,
            "licence": self.of.licence,
            "fingerprint": self.of.fingerprint.hexdigest,
            "sample_of": self.of.sampled[1] if self.of.sampled else None,
            "dropped": dict(suite.dropped) if suite else {},
            "scored": self.scored,
            "figures": [figure.to_plain() for figure in self.figures],
            "metrics": self.metrics,
            **hidden,
        }


def read_set(
    kind: str,
    path: str | None = None,
    *,
    prior: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    styles: Sequence[str] = (),
) -> EvaluationSet:
    """Read an evaluation set.

    Args:
        kind: see :class:`EvaluationSet`, without ``pairs``.
        path: local file or folder; None for the hub, where the set has a home there.
        prior: the prior sets' file, or ``hub``, to score them with RewardBench 1.
        name: of a ``file``.
        licence: of a ``file``.
        styles: of a ``file``, see :func:`~rmexp.evaluation.suites.read_pairs_suite`.

    Raises:
        UserError: naming file and row, or what is missing.
    """
    if kind == "rewardbench":
        rows: Sequence[Any] = read_rewardbench(path)
        if prior is not None:
            rows = [*rows, *read_prior_sets(None if prior == HUB else prior)]
        return EvaluationSet(kind, "RewardBench", _LICENCE, tuple(rows))
    if kind == "rewardbench2":
        return EvaluationSet(kind, "RewardBench 2", _LICENCE, tuple(read_rewardbench2(path)))
    if kind == "prior_sets":
        return EvaluationSet(kind, "RewardBench prior sets", _LICENCE, tuple(read_prior_sets(path)))
    if kind == "file":
        if path is None or name is None or licence is None:
            raise UserError("suite.kind=file needs suite.path, suite.name and suite.licence")
        suite = read_pairs_suite(path, name=name, licence=licence, styles=styles)
    elif kind in SUITES:
        suite = read_suite(kind, path)
    else:
        kinds = ("rewardbench", "rewardbench2", "prior_sets", *SUITES, "file")
        raise UserError(f"suite.kind: '{kind}' is not known; use one of {', '.join(kinds)}")
    return EvaluationSet(kind, suite.name, suite.licence, suite.pairs, suite)


def pairs_set(pairs: Sequence[Pair], name: str, licence: str = "") -> EvaluationSet:
    """Judged pairs, such as the test part of a data set, as an evaluation set."""
    return EvaluationSet("pairs", name, licence, tuple(pairs))


def evaluate_set(scorer: Scorer, of: EvaluationSet, *, seed: int = 0) -> SetResult:
    """Score a set in one pass.

    Raises:
        UserError: no row.
        ScoreError: a score that is no finite number, naming its row.
    """
    if of.kind in ("rewardbench", "prior_sets"):
        first: tuple[RewardBenchRow, ...] = of.rows
        one = evaluate_rewardbench(scorer, first, seed=seed)
        return SetResult(of, one.figures, one.metrics(), one, how_scored(scorer))
    if of.kind == "rewardbench2":
        second: tuple[RewardBench2Row, ...] = of.rows
        two = evaluate_rewardbench2(scorer, second, seed=seed)
        return SetResult(of, two.figures, two.metrics(), two, how_scored(scorer))
    pairs = evaluate_preferences(scorer, of.rows, seed=seed)
    # Where nothing is published, the set that a sample was drawn from is the whole.
    published = (of.suite.published if of.suite else None) or of.whole
    figures = tuple(_with_published(figure, published) for figure in pairs.figures)
    return SetResult(of, figures, pairs.metrics(), pairs, how_scored(scorer))


def _with_published(figure: Figure, published: Mapping[str, int]) -> Figure:
    if figure.name == "accuracy":
        total = sum(published.values())
        return replace(figure, of_published=(figure.rows, total)) if total else figure
    if figure.name in published:
        return replace(figure, of_published=(figure.rows, published[figure.name]))
    return figure


def _section(row: Any) -> str:
    """The part of its set that a row belongs to."""
    return str(row.category if isinstance(row, Pair) else row.subset)


def _together(row: Any) -> str:
    """N of a row of Ties, whose two rows are scored together; empty for any other."""
    if isinstance(row, RewardBench2Row) and row.subset == TIES:
        return row.id.partition(":")[2]
    return ""
