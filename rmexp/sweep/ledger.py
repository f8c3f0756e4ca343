"""What a study's trials add up to, kept up to date at the cost of what is new."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from rmexp.sweep.samplers import violations

# Attributes of a trial (Optuna's user attributes).
CONTROLLER = "controller"
DIRECTORY = "directory"
ATTEMPT = "attempt"
RETRY_OF = "retry_of"
ENQUEUED = "enqueued"
RETRY = "retry"
WITHDRAWN = "withdrawn"
WARM_START = "warm_start"
FAILURE = "failure"
# The point's key, written once all its parameters are drawn.
POINT = "point"
# For an earlier trial that still draws its point, or one that trains this point.
Wait = Literal["no", "draws", "trains"]
# Failed attempts by kind, which count against sweep.retry; an interruption is none.
USED = "retries_used"
INTERRUPTED: Final = "interrupted"
_STATE = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
STATES = (*_STATE.values(), INTERRUPTED)


@dataclass(frozen=True)
class Point:
    """A point that somebody is owed: a retry, or one that the user asked for.

    Attributes:
        params: Optuna's labels of the keys; the sampler adds those left out.
        attrs: attributes of its trial, which say what it is owed for.
    """

    params: Mapping[str, Any]
    attrs: Mapping[str, Any]


@dataclass
class Ledger:
    """Counts and indexes over a study's trials.

    A finished trial never changes, so each is looked at once; only open trials are looked at
    again. Everything here follows from the storage alone: any controller comes to the same.

    Attributes:
        study: Optuna's study.
        count: finished trials by state, withdrawn and interrupted ones left out.
        running: trials that are running now, by number.
        best: the best complete trial that keeps the guards; None with several objectives.
        done: complete and pruned trials by their point's key; a complete one where there is one.
    """

    study: optuna.Study
    count: dict[TrialState, int] = field(default_factory=lambda: dict.fromkeys(TrialState, 0))
    running: dict[int, FrozenTrial] = field(default_factory=dict)
    best: FrozenTrial | None = None
    done: dict[str, FrozenTrial] = field(default_factory=dict)
    models: dict[int, str] = field(default_factory=dict)
    last: FrozenTrial | None = None
    trials: list[FrozenTrial] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)
    _owed: dict[int, FrozenTrial] = field(default_factory=dict)
    _claims: dict[tuple[str, int | str], set[int]] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Complete and pruned trials."""
        return self.count[TrialState.COMPLETE] + self.count[TrialState.PRUNED]

    def refresh(self) -> None:
        """Look at what is new."""
        known = len(self.trials)
        self.trials = self.study.get_trials(deepcopy=False)
        self._open |= set(range(known, len(self.trials)))
        for trial in self.trials[known:]:
            self._index_claim(trial)
        self.running = {}
        for number in sorted(self._open):
            trial = self.trials[number]
            if trial.state.is_finished():
                self._open.remove(number)
                self._take_finished(trial)
            elif trial.state == TrialState.RUNNING:
                self.running[number] = trial

    def owed(self, listed: Mapping[str, Mapping[str, Any]]) -> Point | None:
        """The next point to run before the sampler is asked: retries, then the listed ones."""
        for number, trial in self._owed.items():
            began = int(DIRECTORY in trial.user_attrs)
            attempt = trial.user_attrs.get(ATTEMPT, 0) + began
            used = dict(trial.user_attrs.get(USED, {}))
            if began and not was_interrupted(trial):
                kind = trial.user_attrs.get(FAILURE, "other")
                used[kind] = used.get(kind, 0) + 1
            return Point(point_of(trial), {RETRY_OF: number, ATTEMPT: attempt, USED: used})
        for key, params in listed.items():
            if not self._claims.get((ENQUEUED, key)):
                return Point(params, {ENQUEUED: key})
        return None

    def is_owed(self, number: int) -> bool:
        """Whether a failed trial's point still waits to be run again."""
        return number in self._owed

    def earlier_attempts(self, trial: Trial) -> Iterator[int]:
        """Numbers of the trials that had this trial's point before it, the latest first."""
        number = trial.user_attrs.get(RETRY_OF)
        while number is not None:
            yield number
            number = self.trials[number].user_attrs.get(RETRY_OF)

    def forgive(self, listed: Iterable[str]) -> None:
        """Let a new run claim the listed points that failed for good in earlier ones."""
        lost = {params_key(point_of(t)) for t in self.trials if t.state == TrialState.FAIL}
        alive = {params_key(point_of(t)) for t in (*self.running.values(), *self._owed.values())}
        for key in lost.intersection(listed) - alive - self.done.keys():
            self._claims.pop((ENQUEUED, key), None)

    def is_second(self, trial: FrozenTrial) -> bool:
        """Whether another controller was first to claim what this trial was made for."""
        # Numbers are given out by the storage, one after the other: the lowest was first.
        claim = _claim(trial)
        return claim is not None and min(self._claims[claim]) < trial.number

    def must_wait(self, number: int, key: str) -> Wait:
        """Whether an earlier trial may be training this point already.

        The storage numbers trials one after the other, and a trial draws its point after it has
        its number: of equal points the lowest number trains (Lamport's bakery algorithm). An
        earlier trial that is still drawing may come to this very point.
        """
        wait: Wait = "no"
        for other, trial in self.running.items():
            if other >= number:
                break
            if POINT not in trial.user_attrs:
                return "draws"
            if trial.user_attrs[POINT] == key:
                wait = "trains"
        return wait

    def _index_claim(self, trial: FrozenTrial) -> None:
        if claim := _claim(trial):
            self._claims.setdefault(claim, set()).add(trial.number)
            if claim[0] == RETRY_OF:
                self._owed.pop(trial.user_attrs[RETRY_OF], None)

    def _take_finished(self, trial: FrozenTrial) -> None:
        if WARM_START in trial.user_attrs:
            return
        if trial.user_attrs.get(WITHDRAWN):
            self._give_back_claim(trial)
            return
        self.count[trial.state] += not was_interrupted(trial)
        if trial.state == TrialState.FAIL:
            if trial.user_attrs.get(RETRY) and not self._claims.get((RETRY_OF, trial.number)):
                self._owed[trial.number] = trial
            return
        if directory := trial.user_attrs.get(DIRECTORY):
            self.models[trial.number] = directory
        known = self.done.setdefault(params_key(trial.params), trial)
        if trial.state == TrialState.COMPLETE:
            self.last = trial
            if known.state != TrialState.COMPLETE:
                self.done[params_key(trial.params)] = trial
            if self._is_better(trial):
                self.best = trial

    def _give_back_claim(self, trial: FrozenTrial) -> None:
        claim = _claim(trial)
        if claim is None:
            return
        self._claims[claim].discard(trial.number)
        if claim[0] == RETRY_OF and not self._claims[claim]:
            failed = trial.user_attrs[RETRY_OF]
            self._owed[failed] = self.trials[failed]

    def _is_better(self, trial: FrozenTrial) -> bool:
        if len(self.study.directions) > 1 or any(v > 0 for v in violations(trial)):
            return False
        if self.best is None:
            return True
        assert trial.value is not None
        assert self.best.value is not None
        if self.study.direction == StudyDirection.MAXIMIZE:
            return trial.value > self.best.value
        return trial.value < self.best.value


def _claim(trial: FrozenTrial) -> tuple[str, int | str] | None:
    for name in (RETRY_OF, ENQUEUED):
        if name in trial.user_attrs:
            return name, trial.user_attrs[name]
    return None


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether the user stopped the sweep while the trial ran: Optuna has no state for that."""
    return trial.user_attrs.get(FAILURE) == INTERRUPTED


def state_of(trial: FrozenTrial) -> str:
    """The trial's state in words, one of :data:`STATES`."""
    return INTERRUPTED if was_interrupted(trial) else _STATE[trial.state]


def params_key(params: Mapping[str, Any]) -> str:
    """Equal for equal points."""
    return json.dumps(params, sort_keys=True)


def point_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters, also where it ended before all were drawn."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
