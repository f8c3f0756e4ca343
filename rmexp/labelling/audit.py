"""What is wrong with a rule set, seen from its ratings of some pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmexp.preferences import Pair, prompt_text
from rmexp.rules import RuleSet
from rmexp.statistics import SHARE, Interval, bootstrap_mean

Verdict = Literal["informative", "uninformative", "against", "unknown"]
ALIKE_ABOVE = 0.95


@dataclass(frozen=True)
class RuleAudit:
    """One rule.

    Attributes:
        id: of the rule.
        category: of the rule.
        critical: share of the pairs in which the rule is critical.
        auc: how often the rule rates the response that people prefer above the other, a tie
            counted as half, over the pairs with a human preference; None without such pairs.
        auc_critical: the same over the pairs in which the rule is critical.
        judged_critical: number of those pairs.
        verdict: ``informative`` where the interval of ``auc`` lies above 0.5, ``against`` where it
            lies below, ``uninformative`` where it covers 0.5, ``unknown`` without an interval.
    """

    id: str
    category: str
    critical: float
    auc: Interval | None
    auc_critical: float | None
    judged_critical: int
    verdict: Verdict


@dataclass(frozen=True)
class CategoryAudit:
    """One category of rules.

    Attributes:
        category: its name.
        rules: number of its rules.
        places: share of all critical places that its rules take.
        informative: number of its rules whose ratings carry information.
        pairs: number of pairs of the same category.
        covered: share of those pairs in which a rule of this category is critical; None without
            such pairs.
    """

    category: str
    rules: int
    places: float
    informative: int
    pairs: int
    covered: float | None


@dataclass(frozen=True)
class PoolAudit:
    """A rule set on some pairs.

    Attributes:
        pairs: number of pairs.
        judged: number of pairs with a human preference.
        level: of the intervals.
        rules: one entry a rule, in the set's order.
        categories: one entry a category of rules, by name.
        uncovered: categories of pairs without a rule category of that name, with their pairs.
        correlation: Pearson correlation of ratings over responses, ``[rules, rules]``; NaN where
            a rule rates every response alike.
        alike: pairs of rules whose correlation is above 0.95, the highest first.
    """

    pairs: int
    judged: int
    level: float
    rules: tuple[RuleAudit, ...]
    categories: tuple[CategoryAudit, ...]
    uncovered: dict[str, int]
    correlation: NDArray[np.float64]
    alike: tuple[tuple[str, str, float], ...]

    @property
    def never_critical(self) -> list[str]:
        """Ids of rules that are critical in no pair."""
        return [rule.id for rule in self.rules if rule.critical == 0]

    def with_verdict(self, verdict: Verdict) -> list[str]:
        """Ids of the rules of a verdict."""
        return [rule.id for rule in self.rules if rule.verdict == verdict]

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON data; correlations to four digits, null where they are not known."""
        rounded = np.round(self.correlation, 4).astype(object)
        rounded[np.isnan(self.correlation)] = None
        return {
            "pairs": self.pairs,
            "judged": self.judged,
            "level": self.level,
            "alike": [list(entry) for entry in self.alike],
            "never_critical": self.never_critical,
            "uninformative": self.with_verdict("uninformative"),
            "against": self.with_verdict("against"),
            "uncovered": self.uncovered,
            "categories": [asdict(category) for category in self.categories],
            "rules": [asdict(rule) for rule in self.rules],
            "correlation": rounded.tolist(),
        }


def audit_rules(
    rules: RuleSet,
    pairs: Sequence[Pair],
    psi_a: ArrayLike,
    psi_b: ArrayLike,
    critical: ArrayLike,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PoolAudit:
    """Audit a rule set on rated pairs.

    Args:
        rules: the rules.
        pairs: the pairs; intervals resample them by prompt.
        psi_a: ratings of response A, ``[pairs, rules]``; NaN where not rated.
        psi_b: the same of response B.
        critical: indices of critical rules, ``[pairs, r]``.
        level: of the intervals.
        seed: of the resampling.

    Raises:
        ValueError: shapes that do not fit.
    """
    a, b = np.asarray(psi_a, np.float64), np.asarray(psi_b, np.float64)
    chosen = np.asarray(critical)
    shape = (len(pairs), len(rules))
    if a.shape != shape or b.shape != shape or chosen.ndim != 2 or len(chosen) != len(pairs):
        raise ValueError(
            f"psi_a {a.shape} and psi_b {b.shape} must be [pairs, rules] {shape}, critical "
            f"{chosen.shape} [pairs, r]"
        )
    is_critical = np.zeros(shape, np.bool_)
    np.put_along_axis(is_critical, chosen, True, axis=1)
    human = np.array([{"a": 1.0, "b": -1.0, None: 0.0}[pair.preference] for pair in pairs])
    # 1 where the rule rates the preferred response higher, 0 lower, NaN where nobody can tell.
    right = (np.sign(a - b) * human[:, None] + 1) / 2
    right[human == 0] = np.nan
    prompts = [prompt_text(pair.prompt) for pair in pairs]
    of_rules = tuple(
        _audit_rule(rule.id, rule.category, is_critical[:, i], right[:, i], prompts, level, seed)
        for i, rule in enumerate(rules)
    )
    correlation = _correlation(np.concatenate([a, b]))
    by_category = Counter(pair.category for pair in pairs if pair.category)
    known = {rule.category for rule in rules}
    return PoolAudit(
        pairs=len(pairs),
        judged=int((human != 0).sum()),
        level=level,
        rules=of_rules,
        categories=_audit_categories(of_rules, pairs, is_critical),
        uncovered={c: n for c, n in sorted(by_category.items()) if c not in known},
        correlation=correlation,
        alike=_alike(correlation, rules.ids),
    )


def _audit_rule(
    rule_id: str,
    category: str,
    is_critical: NDArray[np.bool_],
    right: NDArray[np.float64],
    prompts: Sequence[str],
    level: float,
    seed: int,
) -> RuleAudit:
    known = np.flatnonzero(~np.isnan(right)).tolist()
    where_critical = right[is_critical & ~np.isnan(right)]
    auc, verdict = None, "unknown"
    if len(known):
        groups = [prompts[i] for i in known]
        auc = bootstrap_mean(right[known], groups=groups, bounds=SHARE, level=level, seed=seed)
        verdict = "informative" if auc.low > 0.5 else "against" if auc.high < 0.5 else verdict
        verdict = "uninformative" if auc.low <= 0.5 <= auc.high else verdict
    return RuleAudit(
        id=rule_id,
        category=category,
        critical=float(is_critical.mean()) if len(is_critical) else 0.0,
        auc=auc,
        auc_critical=float(where_critical.mean()) if where_critical.size else None,
        judged_critical=int(where_critical.size),
        verdict=verdict,  # type: ignore[arg-type]
    )


def _audit_categories(
    rules: Sequence[RuleAudit], pairs: Sequence[Pair], is_critical: NDArray[np.bool_]
) -> tuple[CategoryAudit, ...]:
    of_rule = np.array([rule.category for rule in rules])
    of_pair = np.array([pair.category for pair in pairs])
    audits = []
    for category in sorted(set(of_rule)):
        own, mine = of_rule == category, of_pair == category
        covered = is_critical[np.ix_(mine, own)].any(axis=1)
        audits.append(
            CategoryAudit(
                category=str(category),
                rules=int(own.sum()),
                places=float(is_critical[:, own].sum() / max(1, is_critical.sum())),
                informative=sum(
                    r.verdict == "informative" for r in rules if r.category == category
                ),
                pairs=int(mine.sum()),
                covered=float(covered.mean()) if covered.size else None,
            )
        )
    return tuple(audits)


def _correlation(ratings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of columns over the rows where both are rated."""
    rated = ~np.isnan(ratings)
    if rated.all():
        return _pearson(ratings)
    rules = ratings.shape[1]
    correlation = np.full((rules, rules), np.nan)
    for i in range(rules):
        for j in range(i, rules):
            both = rated[:, i] & rated[:, j]
            if both.sum() > 1:
                correlation[i, j] = correlation[j, i] = _pearson(ratings[both][:, [i, j]])[0, 1]
    return correlation


def _pearson(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(columns) < 2:
        return np.full((columns.shape[1],) * 2, np.nan)
    centred = columns - columns.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    # A constant column keeps rounding noise after centring, which must not correlate.
    norm[np.ptp(columns, axis=0) < 1e-9] = np.nan
    unit = centred / norm
    return np.clip(unit.T @ unit, -1, 1)


def _alike(
    correlation: NDArray[np.float64], ids: Sequence[str]
) -> tuple[tuple[str, str, float], ...]:
    places = np.argwhere(np.triu(np.nan_to_num(correlation), 1) > ALIKE_ABOVE).tolist()
    found = [(ids[i], ids[j], float(correlation[i, j])) for i, j in places]
    return tuple(sorted(found, key=lambda entry: -entry[2]))
