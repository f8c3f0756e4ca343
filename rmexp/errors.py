"""The errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user wrote cannot be used.

    The message is one line that names the file, line or key, and says what to do. The command
    line prints it without a traceback and exits with code 2.
    """


class DriftError(UserError):
    """What is there today is not what a stored trial was made of."""
