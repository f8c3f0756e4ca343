"""Why a trial failed, sorted by what can be done about it."""

from __future__ import annotations

from typing import Literal, get_args

from rmexp.errors import UserError

FailureKind = Literal["out_of_memory", "nan", "time_out", "lost_worker", "user_error", "other"]
KINDS: tuple[FailureKind, ...] = get_args(FailureKind)

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def failure_kind(error: BaseException) -> FailureKind:
    """The kind of a failure inside a trial.

    >>> failure_kind(MemoryError())
    'out_of_memory'
    """
    # By name: torch and the reward room's NonFiniteError are not imported for this.
    names = {c.__name__ for c in type(error).__mro__}
    text = str(error).lower()
    if names & {"MemoryError", "OutOfMemoryError"} or any(m in text for m in _MEMORY):
        return "out_of_memory"
    if "NonFiniteError" in names or " is nan" in text or text.endswith("not a finite number"):
        return "nan"
    # Submitit's: the job's time is up and it may not be queued again.
    if isinstance(error, TimeoutError) or "UncompletedJobError" in names:
        return "time_out"
    return "user_error" if isinstance(error, UserError) else "other"
