"""Mistakes in a config, told by the key and what to write instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "above {}"),
    "less_than_equal": ("le", "{} or less"),
    "less_than": ("lt", "below {}"),
}
_KINDS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list, such as [a,b]",
}


def config_keys(*models: type[BaseModel]) -> list[str]:
    """Every dotted key of the models, sections among them, those of all kinds of a section."""
    return list(dict.fromkeys(key for model in models for key in _keys(model, "")))


def kinds_with(model: type[BaseModel], key: str) -> list[str]:
    """The kinds of a section (``rater.model``: of rater) that have the key."""
    section, _, name = key.rpartition(".")
    found: list[type[BaseModel]] = [model]
    for part in section.split(".") if section else ():
        found = [s for m in found for s in sections(_annotation(m, part))]
    return [
        str(typing.get_args(s.model_fields["kind"].annotation)[0])
        for s in found
        if name in s.model_fields and "kind" in s.model_fields
    ]


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown key: a near key, else those of its section.

    >>> did_you_mean("gama", ["gamma", "r"])
    '; did you mean gamma?'
    """
    keys = list(known)
    section, _, name = key.rpartition(".")
    beside = [k.removeprefix(f"{section}.") for k in keys if k.startswith(f"{section}.")]
    if near := _nearest(name, beside):
        return f"; did you mean {section}.{near}?"
    elsewhere = [k for k in keys if k.rpartition(".")[2] == name and k != key]
    if len(elsewhere) == 1:
        return f"; did you mean {elsewhere[0]}?"
    if beside:
        return f"; {section} has {', '.join(k for k in beside if '.' not in k)}"
    near = _nearest(key, keys)
    return f"; did you mean {near}?" if near else ""


def _nearest(name: str, known: list[str]) -> str:
    begun = [k for k in known if len(name) > 2 and k.startswith(name)]
    initials = [k for k in known if len(name) > 1 and "".join(w[:1] for w in k.split("_")) == name]
    # Of names of one or two letters, every other is near.
    similar = difflib.get_close_matches(name, [k for k in known if len(k) > 2], n=1, cutoff=0.7)
    return next(iter([*begun, *initials, *similar]), "")


def explain(error: Any, model: type[BaseModel], prefix: str = "") -> str:
    """One of pydantic's errors on one line.

    Args:
        error: of ``ValidationError.errors()``.
        model: what was validated.
        prefix: of its keys.
    """
    # A discriminated union puts its tag into the location: rater.exemplar.encoder.
    tags = {"exemplar", "probe", "causal_lm", "openai", "recorded", "custom"}
    tags |= {"inline", "process", "submitit", "ray"}
    parts = [str(p) for p in error["loc"] if not (p in tags and len(error["loc"]) > 1)]
    key = ".".join([prefix, *parts] if prefix else parts)
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key{did_you_mean(key, config_keys(model))}"
    if kind == "missing":
        return f"{key}: missing; give {key}=VALUE"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message if not key or key in message else f"{key}: {message}"
    given = f", got {error['input']!r}"
    if kind in _BOUNDS:
        name, text = _BOUNDS[kind]
        bound = f"{error['ctx'][name]:g}"
        return f"{key}: must be {text.format(bound)}{given}"
    if kind in _KINDS:
        return f"{key}: must be {_KINDS[kind]}{given}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        inside = [k.removeprefix(f"{key}.") for k in config_keys(model) if k.startswith(f"{key}.")]
        names = [name for name in inside if "." not in name]
        such = f", such as {key}.{names[0]}=VALUE ({', '.join(names)})" if names else ""
        return f"{key}: give its keys{such}{given}"
    if kind == "union_tag_invalid":
        kinds, wrong = error["ctx"]["expected_tags"], error["ctx"]["tag"]
        return f"{key}.kind: must be one of {kinds}, got {wrong!r}"
    message = message.replace("Input should be", "must be")
    return f"{key}: {message[0].lower()}{message[1:]}{given}"


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold: one, or the kinds of a section."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [s for inner in typing.get_args(annotation) for s in sections(inner)]
    return []


def _annotation(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields.get(name)
    return None if field is None else field.annotation


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in sections(field.annotation):
            yield from _keys(section, f"{prefix}{name}.")
