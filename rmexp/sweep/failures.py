"""Failed trials: their kinds, as the controller sees them, and how often each is retried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from rmexp.sweep.ledger import FAILURE, RETRY, WARM_START, WITHDRAWN
from rmexp.trial.failure import KINDS, FailureKind
from rmexp.trial.record import TrialRecord


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        kind: decides whether it is run again; ``interrupted`` always is.
        reason: one line.
        traceback: the end of it; empty where there is none.
    """

    kind: FailureKind | Literal["interrupted"]
    reason: str
    traceback: str = ""

    @classmethod
    def of_record(cls, record: TrialRecord) -> Failure:
        """What a trial said of its own end."""
        return cls(record.failure or "other", record.reason, record.traceback)


@dataclass(frozen=True)
class FailureRow:
    """One kind of failure in a study: how many, how many of them run again, the latest."""

    kind: str
    count: int
    retried: int
    latest: FrozenTrial


def failure_rows(trials: Iterable[FrozenTrial]) -> list[FailureRow]:
    """Failures by kind, in the order of :data:`KINDS`; interruptions are none."""
    failed = [
        t
        for t in trials
        if t.state == TrialState.FAIL and not {WITHDRAWN, WARM_START} & t.user_attrs.keys()
    ]
    count = Counter(t.user_attrs.get(FAILURE, "other") for t in failed)
    rows = []
    for kind in KINDS:
        if count[kind]:
            of_kind = [t for t in failed if t.user_attrs.get(FAILURE, "other") == kind]
            retried = sum(bool(t.user_attrs.get(RETRY)) for t in of_kind)
            rows.append(FailureRow(kind, count[kind], retried, of_kind[-1]))
    return rows
