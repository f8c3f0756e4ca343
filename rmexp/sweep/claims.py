"""Starting and ending trials of a study that several controllers share.

Starting: a controller creates a running trial in its own name (one transaction), then looks. The
storage numbers trials one after the other, so among the trials that want the last free place the
lower numbers have it, and everybody who looks agrees. Ending: the storage lets a trial end once;
whoever comes second is refused. A trial's number is thus its fencing token: a process that was
given up writes into that number's directory only, and cannot end any trial but that one.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from rmexp.sweep.failures import Failure
from rmexp.sweep.ledger import (
    CONTROLLER,
    DIRECTORY,
    FAILURE,
    INTERRUPTED,
    POINT,
    RETRY,
    USED,
    WITHDRAWN,
    Ledger,
    Point,
    params_key,
    point_of,
)
from rmexp.sweep.space import Space


@dataclass
class Claims:
    """Starts and ends trials in the name of one controller.

    Attributes:
        study: Optuna's study.
        ledger: of the same study.
        controller: id of this controller.
        target: finished trials wanted in the study.
    """

    study: optuna.Study
    ledger: Ledger
    controller: str
    target: int

    @property
    def free(self) -> bool:
        """Whether the target leaves a place, by what the ledger last saw."""
        return self.ledger.finished + len(self.ledger.running) < self.target

    def start(self, point: Point | None) -> Trial | None:
        """Create a running trial of ours; None where others took the last places meanwhile."""
        fixed = {} if point is None else {"fixed_params": dict(point.params)}
        frozen = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            # Optuna's own start times are naive local ones.
            datetime_start=datetime.datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={CONTROLLER: self.controller, **({} if point is None else point.attrs)},
            system_attrs=fixed,
            intermediate_values={},
        )
        # As Study.ask does; but the owner is written in the transaction that creates the trial.
        self.study._thread_local.cached_all_trials = None
        trial_id = self.study._storage.create_new_trial(self.study._study_id, frozen)
        self.ledger.refresh()
        number = self.study._storage.get_trial_number_from_id(trial_id)
        mine = self.ledger.trials[number]
        before = sum(n < number for n in self.ledger.running)
        if self.ledger.finished + before < self.target and not self.ledger.is_second(mine):
            return Trial(self.study, trial_id)
        self._withdraw(trial_id)
        return None

    def draw(self, trial: Trial, space: Space) -> bool:
        """Draw the point of a trial of ours; False where it was given up meanwhile.

        A controller that was stopped for longer than its lease wakes anywhere, here as well.
        """
        try:
            space.suggest(trial)
        except UpdateFinishedTrialError:
            return False
        return self.note(trial, {POINT: params_key(trial.params)})

    def withdraw(self, trial: Trial) -> None:
        """Take back a trial of ours that was never run; it counts for nothing."""
        self._withdraw(trial._trial_id)

    def _withdraw(self, trial_id: int) -> None:
        self._end(trial_id, {WITHDRAWN: True}, TrialState.FAIL)
        self.ledger.refresh()

    def complete(self, trial: Trial, values: Sequence[float]) -> bool:
        """End a trial of ours; False where it was given up meanwhile."""
        return self._tell(trial, values=list(values))

    def prune(self, trial: Trial) -> bool:
        """The same for a pruned one."""
        return self._tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial | FrozenTrial, failure: Failure, retries: int) -> bool:
        """End any running trial as failed; False where it has ended already.

        Args:
            trial: the trial.
            failure: why.
            retries: how often a failure of this kind is run again.
        """
        frozen = self.study._storage.get_trial(trial._trial_id)
        # A trial that never reached an executor has not used up an attempt.
        never_ran = failure.kind == "lost_worker" and DIRECTORY not in frozen.user_attrs
        blameless = never_ran or failure.kind == INTERRUPTED
        may = blameless or frozen.user_attrs.get(USED, {}).get(failure.kind, 0) < retries
        attrs: dict[str, Any] = {
            FAILURE: failure.kind,
            "reason": failure.reason,
            RETRY: may and bool(point_of(frozen)),
        }
        if failure.traceback:
            attrs["traceback"] = failure.traceback
        return self._end(trial._trial_id, attrs, TrialState.FAIL)

    def note(self, trial: Trial, attrs: dict[str, Any]) -> bool:
        """Write attributes of a running trial; False where it has ended already."""
        try:
            for name, value in attrs.items():
                trial.set_user_attr(name, value)
        except UpdateFinishedTrialError:
            return False
        return True

    def _tell(self, trial: Trial, **result: Any) -> bool:
        try:
            self.study.tell(trial, **result)
        except UpdateFinishedTrialError:
            return False
        except ValueError as error:
            # Study.tell looks at the state first and has no class of its own for this.
            if "Cannot tell" not in str(error):
                raise
            return False
        return True

    def _end(self, trial_id: int, attrs: dict[str, Any], state: TrialState) -> bool:
        storage = self.study._storage
        try:
            for name, value in attrs.items():
                storage.set_trial_user_attr(trial_id, name, value)
            return bool(storage.set_trial_state_values(trial_id, state))
        except UpdateFinishedTrialError:
            return False
