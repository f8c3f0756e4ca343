"""Rules, rule sets and the pool that ships with rmexp."""

from rmexp.rules.load import load_rule_set, load_rules, named_sets, pool, suggestion
from rmexp.rules.rule import Example, Rule, RuleSet

__all__ = [
    "Example",
    "Rule",
    "RuleSet",
    "load_rule_set",
    "load_rules",
    "named_sets",
    "pool",
    "suggestion",
]
