"""How a study's trials end: by their record, as failed, as a copy, or found without an owner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.claims import Claims
from rmexp.sweep.failures import Failure
from rmexp.sweep.job import TrialJob
from rmexp.sweep.kept_models import drop_checkpoints
from rmexp.sweep.ledger import DIRECTORY, INTERRUPTED, Ledger
from rmexp.sweep.mailbox import give_up
from rmexp.sweep.outcome import OUTCOME, outcome_attrs
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import TrialRecord

_DEAD_CONTROLLER = Failure("lost_worker", "interrupted: its controller ended")


@dataclass
class Endings:
    """Ends trials, each once; the ledger has seen the end when a method returns.

    Attributes:
        study: Optuna's study.
        folder: of the study.
        config: of the sweep: retries, and how many failures are allowed.
        ledger: of the same study.
        claims: by which trials are ended.
        say: told what happened.
        job_of: the job of a trial that another controller began; None where it is unknown here.
        on_lost: told each trial that ended without a record, and why.
        failures: trials that failed for good in this run.
    """

    study: optuna.Study
    folder: StudyFolder
    config: SweepConfig
    ledger: Ledger
    claims: Claims
    say: Callable[[str], None]
    job_of: Callable[[Trial], TrialJob | None]
    on_lost: Callable[[TrialJob, str], None]
    failures: int = 0

    def by_record(self, trial: Trial, record: TrialRecord) -> bool:
        """By the result in a record; False where the trial was given up meanwhile."""
        told = self.claims.note(trial, outcome_attrs(record))
        if told and record.state == "pruned":
            told = self.claims.prune(trial)
        elif told:
            told = self.claims.complete(trial, record.objectives)
        self.ledger.refresh()
        if told:
            drop_checkpoints(self.folder, self.ledger, trial.number)
        return told

    def as_failed(self, trial: Trial, failure: Failure, lost: TrialJob | None = None) -> None:
        """As failed.

        Args:
            trial: of ours.
            failure: why.
            lost: its job, where it left no record.

        Raises:
            UserError: more trials failed than ``sweep.max_failures`` allows.
        """
        number = trial.number
        ended = self.claims.fail(trial, failure, self._retries(failure))
        self.ledger.refresh()
        if not ended:
            self.say(f"trial {number} had been given up: its result does not count")
            return
        if lost is not None:
            self.on_lost(lost, failure.reason)
        drop_checkpoints(self.folder, self.ledger, number)
        self.say(f"trial {number} failed: {failure.reason}; {self._then(number)}")
        if self.ledger.is_owed(number):
            return
        self.failures += 1
        if self.failures > self.config.max_failures:
            raise UserError(
                f"sweep.max_failures: {self.failures} trials failed in this run, the last with: "
                f"{failure.reason} (log: {self.folder.trial(number) / 'log.txt'})"
            )

    def as_copy(self, trial: Trial, other: FrozenTrial) -> None:
        """As an equal trial has ended: same config, same seed, same result."""
        copied = {k: other.user_attrs[k] for k in (DIRECTORY, *OUTCOME) if k in other.user_attrs}
        if self.claims.note(trial, {"duplicate_of": other.number, **copied}):
            if other.state == TrialState.PRUNED:
                for epoch, value in other.intermediate_values.items():
                    trial.report(value, epoch)
                self.claims.prune(trial)
            else:
                self.claims.complete(trial, other.values)
        self.ledger.refresh()
        drop_checkpoints(self.folder, self.ledger, trial.number)
        self.say(f"trial {trial.number} repeats trial {other.number}: copied")

    def of_orphan(self, orphan: FrozenTrial, failure: Failure = _DEAD_CONTROLLER) -> None:
        """Of a trial that nobody runs: by its record if it had finished, else as failed."""
        number = orphan.number
        trial = Trial(self.study, orphan._trial_id)
        if DIRECTORY not in orphan.user_attrs and self.ledger.is_second(orphan):
            # Its controller died before it could withdraw: to owe its point would run it twice.
            self.claims.withdraw(trial)
            return
        try:
            record = TrialRecord.read(self.folder.trial(number))
        except UserError:
            record = None
        if record is not None and record.state != "failed" and record.objectives:
            if self.by_record(trial, record):
                self.say(f"trial {number} had finished ({record.state})")
            return
        if record is not None and record.state == "failed":
            failure = Failure.of_record(record)
        ended = self.claims.fail(trial, failure, self._retries(failure))
        self.ledger.refresh()
        if ended:
            # On a cluster it may run on without its controller.
            give_up(self.folder.trial(number))
            job = self.job_of(trial) if record is None and DIRECTORY in orphan.user_attrs else None
            if job is not None:
                self.on_lost(job, failure.reason)
            self.say(f"trial {number} was interrupted: {self._then(number)}")
            drop_checkpoints(self.folder, self.ledger, number)

    def _retries(self, failure: Failure) -> int:
        if failure.kind == INTERRUPTED:
            return 0  # runs again whatever was retried before
        return self.config.retry.get(failure.kind, 0)

    def _then(self, number: int) -> str:
        return "its point runs again" if self.ledger.is_owed(number) else "it is not run again"
