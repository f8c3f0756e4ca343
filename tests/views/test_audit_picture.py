"""The audit's tables and picture."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rmexp.labelling.audit import PoolAudit, audit_rules
from rmexp.preferences import Pair, prompt_from_text
from rmexp.rules import Rule, RuleSet
from rmexp.views.audit import categories_table, findings, picture, rules_table

RULES = RuleSet(
    "<mine>",
    tuple(
        Rule(f"rule_{i}", f"Sentence <{i}>.", category)
        for i, category in enumerate(["tone", "law", "tone", "law"])
    ),
)


@pytest.fixture
def audit() -> PoolAudit:
    rng = np.random.default_rng(0)
    pairs = [Pair(str(i), prompt_from_text(str(i)), "x", "y", "a", "other") for i in range(30)]
    psi_a = rng.uniform(0.1, 1, (30, 4))
    psi_a[:, 3] = psi_a[:, 0]
    return audit_rules(RULES, pairs, psi_a, np.zeros((30, 4)), np.tile([0, 1], (30, 1)))


def text_of(table: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_the_tables_name_every_rule_and_category(audit: PoolAudit) -> None:
    rules = text_of(rules_table(audit))
    assert re.findall(r"rule_\d", rules) == [
        "rule_1",
        "rule_3",
        "rule_0",
        "rule_2",
    ]
    # Right on all 30 pairs: Wilson's 30 / (30 + 1.96^2).
    assert "1.000 (0.886 to 1.000, all alike)" in rules
    categories = text_of(categories_table(audit))
    assert re.search(r"law +│ 2 +│ 2 +│ 50\.0%", categories)


def test_pairs_of_other_categories_leave_no_empty_columns(audit: PoolAudit) -> None:
    assert "covered" not in text_of(categories_table(audit))
    law = replace(audit.categories[0], pairs=12, covered=0.5)
    table = text_of(categories_table(replace(audit, categories=(law, *audit.categories[1:]))))
    assert re.search(r"law +│ 2 +│ 2 +│ 50\.0% +│ 12 +│ 50%", table)


def test_the_findings_name_the_faults(audit: PoolAudit) -> None:
    text = "\n".join(findings(audit))
    assert "ratings correlate above 0.95: 1 (rule_0 ~ rule_3 (1.000))" in text
    assert "rules that never become critical: 2 (rule_2, rule_3)" in text
    assert "(95% interval of the AUC above 0.5): 4" in text
    assert "other (30 pairs)" in text


def test_the_picture_needs_nothing_from_elsewhere(audit: PoolAudit) -> None:
    page = picture(audit, RULES)
    body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=""", body)
    assert "<script src" not in page
    assert "&lt;mine&gt;" in body
    assert "<mine>" not in body
    # Rules stand by category, in both halves of the picture.
    assert page.index('"rule_1","rule_3","rule_0","rule_2"') > 0
    assert "AUC interval above 0.5 (4)" in page
