"""The audit, on ratings whose faults are put in by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rmexp.labelling.audit import audit_rules
from rmexp.preferences import Pair, prompt_from_text
from rmexp.rules import Rule, RuleSet

PAIRS, RULES = 200, 6
GOOD, CONTRARY, DEAF, COPY, FLAT, UNUSED = range(RULES)


@pytest.fixture
def setting():
    rng = np.random.default_rng(0)
    prefer_a = rng.random(PAIRS) < 0.5
    pairs = [
        Pair(str(i), prompt_from_text(f"p{i}"), "x", "y", "a" if a else "b", "tone" if i else "")
        for i, a in enumerate(prefer_a)
    ]
    psi_a = rng.uniform(-0.4, 0.4, (PAIRS, RULES)).astype(np.float32)
    psi_b = rng.uniform(-0.4, 0.4, (PAIRS, RULES)).astype(np.float32)
    push = np.where(prefer_a, 0.3, -0.3)
    psi_a[:, GOOD] += push
    psi_a[:, CONTRARY] -= push
    psi_a[:, COPY] = psi_a[:, DEAF] * 0.5 + rng.normal(0, 0.01, PAIRS)
    psi_b[:, COPY] = psi_b[:, DEAF] * 0.5 + rng.normal(0, 0.01, PAIRS)
    psi_a[:, FLAT] = psi_b[:, FLAT] = 0.1
    psi_a[:, UNUSED] = psi_b[:, UNUSED]
    critical = np.tile([GOOD, DEAF], (PAIRS, 1))
    critical[: PAIRS // 4, 1] = CONTRARY
    rules = RuleSet(
        "set",
        tuple(Rule(f"r{i}", "s", c) for i, c in enumerate(["tone"] * 2 + ["law"] * 2 + ["a"] * 2)),
    )
    return rules, pairs, psi_a, psi_b, critical


def test_each_fault_is_found_and_only_it(setting) -> None:
    audit = audit_rules(*setting)
    verdicts = {rule.id: rule.verdict for rule in audit.rules}
    assert verdicts["r0"] == "informative"
    assert verdicts["r1"] == "against"
    assert [verdicts[f"r{i}"] for i in (DEAF, COPY, FLAT)] == ["uninformative"] * 3
    assert audit.never_critical == ["r3", "r4", "r5"]
    assert [entry[:2] for entry in audit.alike] == [("r2", "r3")]
    assert 0.95 < audit.alike[0][2] <= 1
    assert (audit.pairs, audit.judged) == (PAIRS, PAIRS)


def test_the_auc_is_the_share_of_pairs_in_which_the_rule_is_right(setting) -> None:
    _, pairs, psi_a, psi_b, _ = setting
    rule = audit_rules(*setting).rules[CONTRARY]
    chosen = np.array([p.preference == "a" for p in pairs])
    right = ((psi_a > psi_b)[:, CONTRARY]) == chosen
    assert rule.auc is not None
    assert rule.auc.estimate == pytest.approx(right.mean())
    assert rule.auc_critical == pytest.approx(right[: PAIRS // 4].mean())
    assert (rule.judged_critical, rule.critical) == (PAIRS // 4, 0.25)


def test_a_tie_counts_as_half(setting) -> None:
    rule = audit_rules(*setting).rules[FLAT]
    assert rule.auc is not None
    assert (rule.auc.estimate, rule.auc.unanimous) == (0.5, True)
    assert 0.5 - rule.auc.low == pytest.approx(rule.auc.high - 0.5)
    assert rule.verdict == "uninformative"


def test_correlations_are_those_of_numpy_and_unknown_for_a_constant_rule(setting) -> None:
    _, _, psi_a, psi_b, _ = setting
    found = audit_rules(*setting).correlation
    known = [i for i in range(RULES) if i != FLAT]
    expected = np.corrcoef(np.concatenate([psi_a, psi_b])[:, known].T)
    assert found[np.ix_(known, known)] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(found[FLAT]).all()


def test_coverage_of_categories(setting) -> None:
    rules, pairs, *rest = setting
    tone = next(c for c in audit_rules(*setting).categories if c.category == "tone")
    assert (tone.rules, tone.informative, tone.pairs, tone.covered) == (2, 1, PAIRS - 1, 1.0)
    assert tone.places == pytest.approx((PAIRS + PAIRS // 4) / (2 * PAIRS))
    others = [Pair(p.id, p.prompt, "x", "y", p.preference, "new") for p in pairs]
    assert audit_rules(rules, others, *rest).uncovered == {"new": PAIRS}


def test_pairs_of_one_prompt_are_resampled_together(setting) -> None:
    rules, pairs, *rest = setting
    few = [
        Pair(p.id, prompt_from_text(f"p{i % 8}"), "x", "y", p.preference)
        for i, p in enumerate(pairs)
    ]
    assert audit_rules(rules, few, *rest).rules[DEAF].auc != audit_rules(*setting).rules[DEAF].auc


def test_without_preferences_or_ratings_the_verdict_is_unknown(setting) -> None:
    rules, pairs, psi_a, psi_b, critical = setting
    nobody = [Pair(p.id, p.prompt, "x", "y") for p in pairs]
    audit = audit_rules(rules, nobody, psi_a, psi_b, critical)
    assert {rule.verdict for rule in audit.rules} == {"unknown"}
    assert audit.judged == 0
    psi_a[:, UNUSED] = np.nan
    psi_a[:3, GOOD] = np.nan
    audit = audit_rules(rules, pairs, psi_a, psi_b, critical)
    assert audit.rules[UNUSED].verdict == "unknown"
    assert audit.rules[GOOD].verdict == "informative"
    assert not np.isnan(audit.correlation[GOOD, DEAF])
    assert not np.isnan(audit.correlation[UNUSED, GOOD])  # its B side is rated


def test_the_findings_are_plain_json(setting) -> None:
    plain = json.loads(json.dumps(audit_rules(*setting).to_plain(), allow_nan=False))
    assert plain["correlation"][FLAT][GOOD] is None
    assert plain["rules"][GOOD]["auc"]["low"] > 0.5
    assert plain["against"] == ["r1"]


def test_shapes_that_do_not_fit(setting) -> None:
    rules, pairs, psi_a, psi_b, critical = setting
    with pytest.raises(ValueError, match="critical"):
        audit_rules(rules, pairs, psi_a, psi_b, critical[:-1])
    with pytest.raises(ValueError, match="psi_a"):
        audit_rules(rules, pairs, psi_a[:, :-1], psi_b, critical)
