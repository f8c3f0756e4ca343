"""The reference of every config key, written from the schema itself."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rmexp.config_files import config_dir
from rmexp.sweep.schema import StudyConfig
from rmexp.tracking.tracker import flatten
from rmexp.trial.adapter import AdapterConfig
from rmexp.trial.audit import AuditConfig
from rmexp.trial.compare import CompareConfig
from rmexp.trial.evaluate import EvaluateConfig
from rmexp.trial.export import ExportConfig
from rmexp.trial.label import LabelConfig
from rmexp.trial.ratings import RateConfig, RaterCommandConfig
from rmexp.trial.schema import LabellingConfig, TrialConfig
from rmexp.trial.score import ScoreConfig

_HEAD = """# Config reference

Written from the schema by `python -m rmexp.views.reference > docs/config.md`; a test compares.
Every key can be set on the command line (`KEY=VALUE`), in a config group, or in a sweep.
Where the groups that a command begins with set another value than the schema, the default is theirs
and the schema's follows: it holds where you choose a group that sets none.
"""


_LABELLING = {*LabellingConfig.model_fields, "tracker"}
_FROM_PAIRS = ("a trial's keys from pairs to labels, and its `tracker`", _LABELLING)
_RATING = ("a trial's `rules` and `rater`", {"rules", "rater"})
# Title, schema, primary config, and what stands elsewhere on the page.
_COMMANDS: tuple[tuple[str, type[BaseModel], str, tuple[str, set[str]] | None], ...] = (
    ("A trial", TrialConfig, "train", None),
    ("A study (`rmexp train -m`, `rmexp sweep`)", StudyConfig, "train", None),
    ("Ratings (`rmexp rate`)", RateConfig, "rate", _FROM_PAIRS),
    ("Labels (`rmexp label`)", LabelConfig, "label", _FROM_PAIRS),
    (
        "An audit (`rmexp rules audit`)",
        AuditConfig,
        "audit",
        ("a trial's keys from pairs to labels", _LABELLING),
    ),
    ("A rater (`rmexp rater fit`, `check`)", RaterCommandConfig, "rater", _RATING),
    ("An evaluation (`rmexp evaluate`)", EvaluateConfig, "evaluate", None),
    ("Scores for a file (`rmexp score`)", ScoreConfig, "score", None),
    ("An export (`rmexp export`)", ExportConfig, "export", None),
    (
        "A comparison (`rmexp compare A B ...`)",
        CompareConfig,
        "compare",
        (
            "`suite` and `data`, which are those of an evaluation",
            {"models", "names", "suite", "data"},
        ),
    ),
    ("A Rule Adapter (`rmexp adapter train`, `check`)", AdapterConfig, "adapter", _FROM_PAIRS),
)


def reference_markdown() -> str:
    """All keys of a trial, a study and the commands: type, default, meaning."""
    parts = [_HEAD]
    for title, model, command, besides in _COMMANDS:
        parts.append(f"## {title}\n")
        known: set[str] = set()
        if besides is not None:
            text, known = besides
            parts.append(f"Besides {text}:\n")
        parts.extend(_tables(model, "", _composed(command), without=known))
    return "\n".join(parts)


def _composed(command: str) -> dict[str, Any]:
    """What a command's primary config and the groups that it begins with set, by whole key."""
    primary = _yaml(config_dir() / f"{command}.yaml")
    found: dict[str, Any] = {}
    for default in primary.pop("defaults"):
        if isinstance(default, dict):
            ((group, option),) = default.items()
            if option is not None and not group.startswith("override"):
                found |= flatten({group: _yaml(config_dir() / group / f"{option}.yaml")})
    found |= flatten(primary)
    # A missing value or a reference to the environment is no default to tell.
    return {k: v for k, v in found.items() if v != "???" and "${" not in str(v)}


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _tables(
    model: type[BaseModel],
    prefix: str,
    composed: Mapping[str, Any],
    without: Collection[str] = frozenset(),
) -> list[str]:
    rows, below = [], []
    for name, field in model.model_fields.items():
        if name in without:
            continue
        sections = _sections(field.annotation)
        if sections:
            for section in sections:
                kind = section.model_fields.get("kind")
                which = "" if kind is None else f", kind `{_options(kind.annotation)[0]}`"
                about = (section.__doc__ or "").strip().splitlines()[0]
                below.append(f"### `{prefix}{name}`{which}\n\n{about}\n")
                # Of several kinds, the groups speak of one.
                chosen = kind is None or composed.get(f"{prefix}{name}.kind", kind.default) in (
                    _options(kind.annotation)
                )
                below.extend(_tables(section, f"{prefix}{name}.", composed if chosen else {}))
        else:
            rows.append(_row(f"{prefix}{field.alias or name}", field, composed))
    head = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
    return [head + "\n".join(rows) + "\n", *below] if rows else below


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        found = [_sections(inner) for inner in typing.get_args(annotation)]
        return [section for sections in found for section in sections]
    return []


def _row(key: str, field: FieldInfo, composed: Mapping[str, Any]) -> str:
    own = field.get_default(call_default_factory=True)
    default = "required" if own is PydanticUndefined else f"`{own}`"
    if key in composed and own is not PydanticUndefined and not _same(composed[key], own):
        default = f"`{composed[key]}`; schema: `{own}`"
    return f"| `{key}` | {_type(field)} | {default} | {field.description or ''} |"


def _same(value: Any, default: Any) -> bool:
    # YAML reads 3e-4 as a text.
    return bool(value == default or (isinstance(default, float) and float(value) == default))


def _type(field: FieldInfo) -> str:
    options = _options(field.annotation)
    if options:
        return ", ".join(f"`{option}`" for option in options)
    name = getattr(field.annotation, "__name__", None)
    generic = bool(typing.get_args(field.annotation))
    text = str(field.annotation) if generic or name is None else name
    text = re.sub(r"\brmexp\.[\w.]*\.", "", text)
    bounds = [_bound(rule) for rule in field.metadata]
    return " ".join([text.replace("typing.", "").replace("|", "or"), *filter(None, bounds)])


def _options(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(option) for option in typing.get_args(annotation)]
    return []


def _bound(rule: Any) -> str:
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    return " ".join(f"{sign} {getattr(rule, n)}" for n, sign in signs if hasattr(rule, n))


if __name__ == "__main__":
    print(reference_markdown(), end="")
