"""Hydra's complaints in our words: the key, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

_FLAGS = """
    --cfg -c --resolve --package -p --multirun -m --info -i --hydra-help --config-path -cp
    --config-name -cn --config-dir -cd --experimental-rerun --version --shell-completion -sc
    --run -r
"""
_UNKNOWN_KEY = re.compile(r"Could not (?:override|append to config|delete from config)")
_SEVERAL = re.compile(r"Sweep parameters '(?P<word>.*)' requires --multirun")
_LIST = re.compile(r"Ambiguous value for argument '(?P<word>.*)'")
_THERE = re.compile(r"Could not append to config\. An item is already at '(?P<key>.*)'")
# A group named without the slash is looked for below the file's own group.
_INSIDE = re.compile(
    r"In '(?P<file>[^']*)': Could not override '(?P<own>[^']*)/(?P<group>[^'/@]*)@?[^']*'"
)
_TWICE = re.compile(r"Multiple values for (?P<group>\S+)\. .* 'override \S+: (?P<option>[^']*)'")
_GROUP = re.compile(r"Could not (?:override|append) '(?P<key>[^']*)'")


def unknown_flag(words: Sequence[str]) -> str | None:
    """The first flag that Hydra would refuse with its usage."""
    for word in words:
        name = word.split("=")[0]
        if name.startswith("-") and name not in _FLAGS.split():
            return word
    return None


def explain(error: BaseException, command: str, models: Sequence[type[BaseModel]]) -> str:
    """One of Hydra's or OmegaConf's errors on one line.

    Args:
        error: what composing raised.
        command: name of the primary config, as ``train``.
        models: the schema of what is composed; its keys are suggested.
    """
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(error.missing_cfg_file, error.options)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    if several := _SEVERAL.search(text) or _LIST.search(text):
        word = several["word"]
        how = (
            "use rmexp train -m, or rmexp sweep"
            if command == "train"
            else f"rmexp {command} takes one"
        )
        listed = "; a list is written [a,b]" if _LIST.search(text) else ""
        return f"{word.split('=')[0]}: several values: {how}{listed}"
    if there := _THERE.search(text):
        return f"{there['key']}: stands there already; write {there['key']}=VALUE without '+'"
    if inside := _INSIDE.search(text):
        file, group = inside["file"], inside["group"]
        return f"{file}: {_override(group, _option_given(file, group))}"
    if twice := _TWICE.search(text):
        return f"{twice['group']}: chosen twice: {_override(twice['group'], twice['option'])}"
    key = _unknown_key(error)
    if key is not None:
        return _no_key(key, models)
    return _first_lines(error)


def _no_option(missing: str, options: Sequence[str] | None) -> str:
    import difflib

    group, _, option = missing.rpartition("/")
    known = sorted(options or ())
    if not known and "/" in group:
        return f"{group}: no such group: {_override(group.rpartition('/')[2], option)}"
    near = difflib.get_close_matches(option, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{group}: no option '{option}'; {meant}use one of {', '.join(known)}"


def _override(group: str, option: str) -> str:
    return f"in a file's defaults, write 'override /{group}: {option}', with the slash"


def _option_given(file: str, group: str) -> str:
    """What a named sweep's defaults choose from a group."""
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException

    try:
        defaults = ConfigStore.instance().load(f"{file}.yaml").node.defaults
    except (HydraException, AttributeError):
        return "OPTION"  # of a file that Hydra read itself
    given = [entry.get(f"override {group}") for entry in defaults if hasattr(entry, "get")]
    return str(next(filter(None, given), "OPTION"))


def _unreadable(word: str, text: str) -> str:
    if "missing EQUAL" in text:
        return f"{word}: write KEY=VALUE"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((n for n in lines if not n.startswith(("See ", "Error parsing", "^"))), "")
    key, _, value = word.partition("=")
    from rmexp.sweep.expressions import wrong_call

    if why := wrong_call(reason):
        return f"cannot read {word}: {why}"
    return f"cannot read {word}: {reason}; put text with signs into quotes: '{key}=\"{value}\"'"


def _unknown_key(error: BaseException) -> str | None:
    """The dotted key that the config does not have."""
    named = _GROUP.search(str(error))
    # Hydra wraps OmegaConf's error, which knows the key inside a mapping that was given.
    for cause in (error.__cause__, error):
        key = getattr(cause, "key", None)
        if isinstance(key, str) and "is not in struct" in str(cause):
            full = getattr(cause, "full_key", None) or key
            return str(full)
    if named and _UNKNOWN_KEY.search(str(error)):
        return named["key"]
    return None


def _no_key(key: str, models: Sequence[type[BaseModel]]) -> str:
    from rmexp.trial.mistakes import config_keys, did_you_mean, kinds_with

    known = config_keys(*models)
    if key in known:
        section = key.rpartition(".")[0]
        kinds = [kind for model in models for kind in kinds_with(model, key)]
        return f"{key}: not a key of this {section}; {section}={', '.join(kinds)} have it"
    return f"{key}: unknown key{did_you_mean(key, known)}"


def _first_lines(error: BaseException) -> str:
    """The message on one line, without hints over several lines."""
    skipped = ("Set the env", "full_key:", "object_type", "See https://hydra.cc")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines[: lines.index("Config search path:")] if "Config search path:" in lines else lines
    text = " ".join(line for line in lines if not line.startswith(skipped))
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause).splitlines()[0] not in text:
        text += f" ({str(cause).splitlines()[0]})"
    return text
