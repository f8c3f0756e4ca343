"""Reading rule files, with errors that name the line, and the pool that ships with rmexp."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from rmexp.errors import UserError, looked_in
from rmexp.rules.rule import Example, Rule, RuleSet

POOL = Path(__file__).parent / "pool"
_SETS = POOL / "sets.yaml"
_TEXT_FIELDS = ("id", "sentence", "category", "applies_when")
_EXAMPLE_FIELDS = ("follows", "breaks")
_REQUIRED = ("id", "sentence", "category")
_LISTED = 20


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read the rules of one YAML file (``rules:`` with a list of rules).

    Raises:
        UserError: naming the file and line of what cannot be used.
    """
    root = _compose(path)
    entries = _mapping(root, path).get("rules")
    if not isinstance(entries, yaml.SequenceNode):
        raise UserError(f"{path}:1: expected a list under 'rules:'")
    if not entries.value:
        line = entries.start_mark.line + 1
        raise UserError(f"{path}:{line}: no rule in it; write rules below 'rules:'")
    rules = tuple(_rule(node, path) for node in entries.value)
    seen: dict[str, int] = {}
    for rule, node in zip(rules, entries.value, strict=True):
        line = node.start_mark.line + 1
        if rule.id in seen:
            raise UserError(
                f"{path}:{line}: rule id '{rule.id}' stands already at line {seen[rule.id]}"
            )
        seen[rule.id] = line
    return rules


@functools.cache
def pool() -> RuleSet:
    """The pool ``safety100``: every rule that ships with rmexp, by category and then in order."""
    files = sorted(f for f in POOL.glob("*.yaml") if f != _SETS)
    return RuleSet("safety100", tuple(rule for file in files for rule in load_rules(file)))


def named_sets() -> list[str]:
    """The names that :func:`load_rule_set` takes without a path."""
    categories = sorted({rule.category for rule in pool()})
    return ["safety100", *sorted(_listed_sets()), *categories]


def load_rule_set(
    name: str, path: Path | str | None = None, ids: Sequence[str] | None = None
) -> RuleSet:
    """A rule set by name, or from the user's own file.

    Args:
        name: ``safety100``, ``core20``, ``refusal_balance``, a category of the pool, or any name
            for a set of one's own.
        path: a YAML file in the pool's schema; without it the rules come from the pool.
        ids: keep these rules only, in this order.

    Raises:
        UserError: for an unknown name or id, or naming the line of a file that cannot be used.
    """
    rules = load_rules(Path(path)) if path is not None else _from_pool(name)
    if ids is not None:
        rules = _pick(ids, rules, f"rules.ids: no rule '{{}}' in '{path or name}'")
    return RuleSet(name, rules)


def _from_pool(name: str) -> tuple[Rule, ...]:
    if name == "safety100":
        return pool().rules
    listed = _listed_sets()
    if name in listed:
        return _pick(listed[name], pool().rules, f"{_SETS.name}: set '{name}' names no rule '{{}}'")
    rules = tuple(rule for rule in pool() if rule.category == name)
    if not rules:
        raise UserError(
            f"rules.name: no rule set '{name}'; use one of {', '.join(named_sets())}, "
            "or give rules.path"
        )
    return rules


def _pick(ids: Sequence[str], rules: Sequence[Rule], message: str) -> tuple[Rule, ...]:
    by_id = {rule.id: rule for rule in rules}
    for rule_id in ids:
        if rule_id not in by_id:
            raise UserError(message.format(rule_id) + suggestion(rule_id, by_id))
    if len(set(ids)) != len(ids):
        twice = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise UserError(f"rules.ids: '{twice}' stands twice")
    return tuple(by_id[rule_id] for rule_id in ids)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown id: the nearest ones, else those that there are."""
    ids = list(known)
    near = difflib.get_close_matches(wrong, ids, n=3)
    if near:
        return "; did you mean " + " or ".join(f"'{i}'" for i in near) + "?"
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return f"; known: {', '.join(ids[:_LISTED])}{more}"


@functools.cache
def _listed_sets() -> dict[str, list[str]]:
    return dict(yaml.safe_load(_SETS.read_text(encoding="utf-8"))["sets"])


def _compose(path: Path) -> yaml.Node:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the rules: {error.strerror}{looked_in(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot read the rules: it is not UTF-8 text") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # A quotation that never ends is a mistake where it began, not where the file stops.
        open_quote = "quoted" in (error.context or "")
        mark = error.context_mark if open_quote else error.problem_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        raise UserError(f"{path}: the file is empty; expected a list under 'rules:'")
    return node


def _mapping(node: yaml.Node, path: Path) -> dict[str, yaml.Node]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{line}: expected 'key: value' lines here")
    fields: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if str(key.value) in fields:
            raise UserError(f"{path}:{key.start_mark.line + 1}: '{key.value}' stands twice")
        fields[str(key.value)] = value
    return fields


def _text(node: yaml.Node, field: str, path: Path) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise UserError(f"{path}:{node.start_mark.line + 1}: '{field}' must be a text")
    return str(node.value).strip()


def _rule(node: yaml.Node, path: Path) -> Rule:
    fields = _mapping(node, path)
    line = node.start_mark.line + 1
    known = _TEXT_FIELDS + _EXAMPLE_FIELDS
    for field, value in fields.items():
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            meant = f"did you mean '{near[0]}'?" if near else f"use {', '.join(known)}"
            raise UserError(f"{path}:{value.start_mark.line + 1}: unknown key '{field}'; {meant}")
    for field in _REQUIRED:
        if field not in fields:
            raise UserError(f"{path}:{line}: the rule lacks '{field}'")
    texts = {f: _text(fields[f], f, path) for f in _TEXT_FIELDS if f in fields}
    examples = {f: _examples(fields[f], f, path) for f in _EXAMPLE_FIELDS if f in fields}
    return Rule(
        id=texts["id"],
        sentence=texts["sentence"],
        category=texts["category"],
        applies_when=texts.get("applies_when", ""),
        follows=examples.get("follows", ()),
        breaks=examples.get("breaks", ()),
    )


def _examples(node: yaml.Node, field: str, path: Path) -> tuple[Example, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{path}:{node.start_mark.line + 1}: '{field}' must be a list of examples")
    examples = []
    for item in node.value:
        fields = _mapping(item, path)
        line = item.start_mark.line + 1
        if set(fields) != {"prompt", "response"}:
            raise UserError(f"{path}:{line}: an example has 'prompt' and 'response', nothing else")
        examples.append(Example(*(_text(fields[f], f, path) for f in ("prompt", "response"))))
    return tuple(examples)
