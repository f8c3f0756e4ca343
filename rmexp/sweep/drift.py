"""A study's trials must be comparable: what is not searched stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    IntDistribution,
    json_to_distribution,
)

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, differences
from rmexp.sweep.space import Space
from rmexp.sweep.study import StudyFolder, finished_trials
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import FREE_KEYS, TrialConfig

CONFIG = "config"
_SPACE = "space"
_SHOWN = 3
# What a trial reads beside its config; an adapter and a rater only where it has one.
_CONTENT = ("pairs", "rules", "rater", "adapter", "model")


def refuse_drift(study: optuna.Study, config: Mapping[str, Any], space: Space) -> None:
    """Note what the study is made with, or compare with what was noted at its beginning.

    Numeric ranges may be widened or narrowed; Optuna can change neither the choices of a key, nor
    its kind, nor whether it is searched on a log scale.

    Args:
        study: Optuna's study.
        config: the trial's config as composed, before any point is chosen.
        space: the searched keys.

    Raises:
        UserError: naming the keys that differ, with both values.
    """
    searched = {d.key for d in space.dimensions}
    now = {
        key: value
        for key, value in _flat(config).items()
        if not _below(key, searched) and not _below(key, FREE_KEYS)
    }
    ranges = {
        d.key: optuna.distributions.distribution_to_json(d.distribution) for d in space.dimensions
    }
    noted = study.user_attrs.get(CONFIG)
    if noted is None:
        study.set_user_attr(CONFIG, now)
        study.set_user_attr(_SPACE, ranges)
        return
    # A key that has come to rmexp since the study began was, unsaid, at its default.
    then = study.user_attrs.get(_SPACE, {})
    defaults = _flat(TrialConfig(cache_dir="").to_plain())
    was = {k: defaults[k] for k in now.keys() & defaults.keys() if not _below(k, then)} | noted
    differing = [
        f"{key} was {_said(was, key)}, now {_said(now, key)}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) or (key in was) != (key in now)
    ]
    for key, text in then.items():
        old = json_to_distribution(text)
        new = space.distributions.get(key)
        if new is not None and not _may_follow(old, new):
            differing.append(f"{key} was searched in {_said_range(old)}, now in {_said_range(new)}")
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"study '{study.study_name}': {'; '.join(differing[:_SHOWN])}{more}: its trials would "
            "not be comparable; give the same, or start another with study=NAME"
        )


def refuse_other_content(folder: StudyFolder, study: optuna.Study) -> None:
    """Compare with the study's latest trial what it read: names and paths alone do not tell.

    Pairs, rules, rater, Rule Adapter and base model: each may have been replaced where it was.

    Raises:
        UserError: naming what has changed.
    """
    for trial in reversed(finished_trials(study)):
        try:
            record = TrialRecord.read(folder.trial(trial.number))
        except UserError:
            continue
        moved = content_drift(record, _CONTENT)
        if moved:
            raise UserError(
                f"study '{folder.name}': {'; '.join(moved)} since trial {trial.number}: new trials "
                "would not be comparable; bring them back, or start another with study=NAME"
            )
        return


def content_drift(record: TrialRecord, of: Sequence[str] = (*_CONTENT, "code")) -> list[str]:
    """What a trial's stored config finds otherwise today than the trial did, in words."""
    today = found_today(record.trial_config)
    moved = []
    for name in of:
        stored = record.fingerprints.get(name)
        if stored is None or name not in today:
            continue
        parts = differences(Fingerprint.from_plain(stored), today[name]())
        if parts:
            named = ", ".join(parts[:5]) + (", ..." if len(parts) > 5 else "")
            moved.append(f"{name} changed ({named})")
    return moved


def config_drift(record: TrialRecord) -> list[str]:
    """Keys of the stored config that this rmexp reads otherwise than it is stored, in words.

    A trial is run again from its stored config, so no YAML of today moves it; but a key that has
    come since takes its default.
    """
    stored, read = _flat(record.config), _flat(record.trial_config.to_plain())
    return [
        f"config key {key} {f'was {_said(stored, key)}' if key in stored else 'has come since'}, "
        f"now {json.dumps(read[key]) if key in read else 'not there'}"
        for key in sorted(stored.keys() | read.keys())
        if key not in stored or key not in read or stored[key] != read[key]
    ]


def found_today(config: TrialConfig) -> dict[str, Callable[[], Fingerprint]]:
    """What identifies the things that a config finds today, by the names of a record."""
    from rmexp.backbone.sources import resolve_model, weights_fingerprint
    from rmexp.trial import assembly, reading
    from rmexp.trial.versions import code_fingerprint

    rules = assembly.rule_set(config)
    model, cache = config.model.name, Path(config.cache_dir)
    today: dict[str, Callable[[], Fingerprint]] = {
        "pairs": lambda: reading.read_pairs(config.data).fingerprint,
        "rules": lambda: rules.fingerprint,
        "rater": lambda: assembly.rater_fingerprint(config, rules),
        "model": lambda: weights_fingerprint(
            resolve_model(model, cache), commit=True, cache_dir=cache
        ),
        "code": code_fingerprint,
    }
    if config.selection.strategy == "adapter":
        today["adapter"] = lambda: assembly.selector(config, rules).fingerprint
    return today


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat


def _below(key: str, roots: Iterable[str]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _said(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "searched or not there"


def _may_follow(old: Any, new: Any) -> bool:
    if isinstance(old, CategoricalDistribution) or type(old) is not type(new):
        return bool(old == new)
    return bool(old.log == new.log)


def _said_range(distribution: Any) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(map(str, distribution.choices))})"
    kind = "whole numbers" if isinstance(distribution, IntDistribution) else "numbers"
    scale = ", on a log scale" if distribution.log else ""
    return f"{kind} {distribution.low:g} to {distribution.high:g}{scale}"
