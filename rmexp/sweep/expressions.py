"""What is wrong with a function of Hydra's sweep grammar, in our words."""

from __future__ import annotations

import difflib
import re

_CALL = re.compile(r"\w+ while evaluating '.*': (?P<why>.*)")
_SWEEPS = ["choice", "range", "interval", "tag", "glob"]
_FUNCTIONS = [*_SWEEPS, "shuffle", "sort", "int", "float", "bool", "str"]


def wrong_call(message: str) -> str | None:
    """What is wrong with a function in an override, of Hydra's message; None where nothing is."""
    call = _CALL.match(message)
    if call is None:
        return None
    unknown = re.fullmatch(r"Unknown function '(?P<name>.*)'", call["why"])
    if unknown is None:
        return call["why"]
    near = difflib.get_close_matches(unknown["name"], _FUNCTIONS, n=1)
    meant = f"did you mean {near[0]}(...)? " if near else ""
    return f"unknown function {unknown['name']}; {meant}there are {', '.join(_FUNCTIONS)}"
