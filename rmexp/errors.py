"""The errors that a user can mend."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something the user wrote cannot be used.

    The message is one line that names the file, line or key, and says what to do. The command
    line prints it without a traceback and exits with code 2.
    """


class DriftError(UserError):
    """What is there today is not what a stored trial was made of."""


def looked_in(path: str | Path) -> str:
    """Where a relative path was looked for, to stand behind a message; empty for an absolute one.

    A trial keeps paths as they were given: from another folder they lead elsewhere.
    """
    return "" if Path(path).is_absolute() else f"; looked in {Path.cwd()}"
