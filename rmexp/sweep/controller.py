"""The controller: asks Optuna for points, keeps the executor's slots busy, tells results."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.claims import Claims
from rmexp.sweep.endings import Endings
from rmexp.sweep.failures import Failure
from rmexp.sweep.job import Ended, Executor, TrialJob
from rmexp.sweep.kept_models import (
    drop_left_checkpoints,
    keep_models,
    to_go_on_from,
)
from rmexp.sweep.leases import BEATS_PER_LEASE, Observer, Registration
from rmexp.sweep.ledger import (
    ATTEMPT,
    CONTROLLER,
    DIRECTORY,
    INTERRUPTED,
    RETRY_OF,
    Ledger,
    Wait,
    params_key,
)
from rmexp.sweep.progress import Progress, said
from rmexp.sweep.samplers import listed_points, make_sampler, target_of
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.space import Space
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig

_REFUSED_WAIT = 30.0  # seconds until the executor is asked again
ConfigFor = Callable[[dict[str, Any]], TrialConfig]


@dataclass
class _Job:
    """A trial of ours that runs."""

    trial: Trial
    began: float | None = None
    stopped: Failure | None = None


@dataclass
class Controller:
    """Runs a study up to its target, alone or beside other controllers.

    The target counts the finished (complete or pruned) trials of the study, not of this run: the
    same command after an interruption goes on to exactly that number.

    Attributes:
        study: Optuna's study.
        folder: of the study.
        config: of the sweep.
        space: the searched keys.
        config_for: resolved trial config of a point; raises UserError where it cannot run.
        executor: runs the trials.
        guarded: whether trials have guards (``evaluation.guards``).
        notes: what to say at the beginning.
        on_progress: told after each event.
        on_lost: told each trial that ended without a record, and why.
    """

    study: optuna.Study
    folder: StudyFolder
    config: SweepConfig
    space: Space
    config_for: ConfigFor
    executor: Executor
    guarded: bool = False
    notes: Sequence[str] = ()
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_lost: Callable[[TrialJob, str], None] = lambda job, reason: None
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _waiting: dict[int, Trial] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _looked: float = -float("inf")
    _held_until: float = -float("inf")
    _ended: int = 0

    def run(self) -> None:
        """Run to the target, the time limit or the failure limit.

        Raises:
            UserError: more trials failed than ``sweep.max_failures`` allows.
        """
        self._ledger = Ledger(self.study)
        registration = Registration(self.study, self.folder.locks)
        self._observer = Observer(registration.id, self.folder.locks, self.config.lease)
        self._listed = {params_key(p): p for p in listed_points(self.config, self.space)}
        target = target_of(self.config, self._listed)
        self._claims = Claims(self.study, self._ledger, registration.id, target)
        self._endings = Endings(
            self.study,
            self.folder,
            self.config,
            self._ledger,
            self._claims,
            say=self._say,
            job_of=self._job_of,
            on_lost=self.on_lost,
        )
        try:
            with registration.held(self.config.lease):
                # The trials of a controller that was killed first: they have failed by that.
                self._look_around()
                self._ledger.forgive(self._listed)
                drop_left_checkpoints(self.folder, self._ledger)
                for note in self.notes:
                    self._say(note)
                self.study.sampler = make_sampler(
                    self.config.sampler,
                    self.space,
                    len(self._ledger.trials),
                    controller="" if registration.alone else registration.id,
                    guarded=self.guarded,
                    objectives=len(self.config.directions),
                )
                try:
                    self._loop()
                except (KeyboardInterrupt, UserError):
                    self._interrupt()
                    raise
        finally:
            self.executor.close()

    def _loop(self) -> None:
        while True:
            self._look_around()
            self._fill_slots()
            if self._jobs:
                ended = self.executor.wait(self._on_report, timeout=self._patience())
                for one in ended:
                    self._settle(one)
                self._stop_late_trials()
                if self._waiting:
                    self._ledger.refresh()
            elif self._waiting:
                time.sleep(self._patience())
                self._ledger.refresh()
            elif self._ledger.finished >= self._claims.target or self._is_late():
                return
            elif self._is_exhausted() and not self._ledger.running:
                left = self._claims.target - self._ledger.finished
                self._say(f"grid points that failed: {left}; the same command tries them again")
                return
            else:
                # Others run the rest; should one of them die, its trials are ours to run again.
                time.sleep(min(1.0, self.config.lease / BEATS_PER_LEASE))
                self._ledger.refresh()

    def _interrupt(self) -> None:
        """Stop our trials and give their points back: the next run begins with them."""
        self.executor.close()
        self._ledger.refresh()
        for trial in self._waiting.values():
            self._claims.withdraw(trial)
        for number, trial in list(self._ledger.running.items()):
            if number in self._jobs:
                self._endings.of_orphan(trial, Failure(INTERRUPTED, "the sweep was stopped"))

    def _look_around(self) -> None:
        """Fail the trials of dead controllers; now and then, as each look asks the storage."""
        if time.monotonic() - self._looked < self.config.lease / BEATS_PER_LEASE:
            return
        self._looked = time.monotonic()
        # The trials first: a controller registers before it starts any.
        self._ledger.refresh()
        living = self._observer.living(self.study)
        for number, orphan in list(self._ledger.running.items()):
            if orphan.user_attrs.get(CONTROLLER) not in living:
                self._endings.of_orphan(orphan)
            elif orphan.user_attrs[CONTROLLER] == self._observer.me and not self._has(number):
                # Ours, and yet it does not run: told while the storage did not answer.
                self._endings.of_orphan(orphan)
        self._ledger.refresh()
        for number, job in self._jobs.items():
            if number not in self._ledger.running and job.stopped is None:
                job.stopped = Failure("lost_worker", "given up by another controller")
                self.executor.cancel(number)

    def _fill_slots(self) -> None:
        self._place_waiting()
        # A sampler that insists on points in training must not use up the study's places.
        while self._has_room() and len(self._waiting) < self.executor.slots and self._claims.free:
            if self._is_exhausted():
                return
            trial = self._claims.start(self._ledger.owed(self._listed))
            if trial is None:
                # Two that withdraw before each other must not keep step.
                time.sleep(random.uniform(0, 0.05))
                continue
            if self._claims.draw(trial, self.space):
                self._waiting[trial.number] = trial
            self._ledger.refresh()
            self._place_waiting()

    def _is_exhausted(self) -> bool:
        """Whether a grid has no point left; one that failed for good is not tried again."""
        return self.config.sampler.kind == "grid" and self._ledger.owed(self._listed) is None

    def _has_room(self) -> bool:
        held = time.monotonic() < self._held_until
        return len(self._jobs) < self.executor.slots and not held and not self._is_late()

    def _has(self, number: int) -> bool:
        return number in self._jobs or number in self._waiting

    def _place_waiting(self) -> None:
        """Run what may run; an equal point that trains already is waited for, then copied."""
        for number, trial in list(self._waiting.items()):
            done = self._ledger.done.get(params_key(trial.params))
            if number not in self._ledger.running:
                del self._waiting[number]
            elif done is not None:
                del self._waiting[number]
                self._endings.as_copy(trial, done)
            elif self._is_late():
                del self._waiting[number]
                self._claims.withdraw(trial)
            elif self._has_room() and self._must_wait(trial) == "no":
                del self._waiting[number]
                self._submit(trial)

    def _must_wait(self, trial: Trial) -> Wait:
        return self._ledger.must_wait(trial.number, params_key(trial.params))

    def _patience(self) -> float:
        """Seconds until the next look: short where a slot is free but for a moment."""
        moment = self._has_room() and any(
            self._must_wait(trial) == "draws" for trial in self._waiting.values()
        )
        return 0.05 if moment else 1.0

    def _is_late(self) -> bool:
        limit = self.config.timeout
        return limit is not None and time.monotonic() - self._started > limit

    def _submit(self, trial: Trial) -> None:
        number = trial.number
        try:
            config = self.config_for(self.space.values(trial.params))
        except UserError as error:
            self._endings.as_failed(trial, Failure("user_error", str(error)))
            return
        if config.trainer.threads is None:
            threads = {"threads": self.executor.threads}
            config = config.model_copy(
                update={"trainer": config.trainer.model_copy(update=threads)}
            )
        job = self._job(trial, config)
        directory = str(self.folder.trial(number).relative_to(self.folder.root))
        if not self._claims.note(trial, {DIRECTORY: directory}):
            self._ledger.refresh()
            return
        try:
            self.executor.submit(job)
        except UserError as error:
            if not self._jobs:
                self._claims.withdraw(trial)
                raise
            # A scheduler that is busy for a while must not end what runs.
            self._endings.as_failed(trial, Failure(INTERRUPTED, f"could not be started: {error}"))
            self._held_until = time.monotonic() + _REFUSED_WAIT
            return
        self._jobs[number] = _Job(trial)
        self._say(f"trial {number} started: {said(trial.params)}")

    def _job(self, trial: Trial, config: TrialConfig) -> TrialJob:
        attempt = trial.user_attrs.get(ATTEMPT, 0)
        identity = TrialIdentity(self.study.study_name, trial.number, attempt)
        # Whole, as a job may run in another working directory.
        directory = self.folder.trial(trial.number).resolve()
        return TrialJob(identity, config.to_plain(), directory, self._resume_from(trial))

    def _job_of(self, trial: Trial) -> TrialJob | None:
        """The job of a trial that a dead controller has begun."""
        try:
            return self._job(trial, self.config_for(self.space.values(trial.params)))
        except (KeyError, UserError):
            return None  # It searched another space.

    def _resume_from(self, trial: Trial) -> Path | None:
        old = trial.user_attrs.get(RETRY_OF)
        return None if old is None else to_go_on_from(self.folder, self._ledger, old)

    def _on_report(self, number: int, epoch: int, value: float) -> bool:
        trial = self._jobs[number].trial
        try:
            trial.report(value, epoch)
        except optuna.exceptions.UpdateFinishedTrialError:
            return True
        return bool(trial.should_prune())

    def _settle(self, ended: Ended) -> None:
        number = ended.job.number
        job = self._jobs.pop(number)
        self._ended += 1
        failure = job.stopped
        if failure is None and ended.lost:
            failure = Failure("lost_worker", ended.lost)
        if failure is not None:
            self._endings.as_failed(job.trial, failure, ended.job if ended.lost else None)
            return
        record = TrialRecord.read(ended.job.directory)
        if record.state == "failed":
            self._endings.as_failed(job.trial, Failure.of_record(record))
        elif record.state == "complete" and not record.objectives:
            reason = "no validation pair was measured, so there is no objective"
            self._endings.as_failed(job.trial, Failure("user_error", reason))
        elif not self._endings.by_record(job.trial, record):
            self._say(f"trial {number} had been given up: its result does not count")
        elif record.state == "pruned":
            self._say(f"trial {number} {record.reason}")
        else:
            values = ", ".join(f"{v:.4f}" for v in record.objectives)
            self._say(f"trial {number} complete: {values}")
        keep_models(self.folder, self._ledger, self.config)

    def _stop_late_trials(self) -> None:
        limit = self.config.trial_timeout
        if limit is None:
            return
        now = time.monotonic()
        for number, job in self._jobs.items():
            if not self.executor.has_begun(number):
                job.began = None
                continue
            job.began = now if job.began is None else job.began
            if job.stopped is None and now - job.began > limit:
                reason = f"stopped after sweep.trial_timeout={limit:g} seconds"
                job.stopped = Failure("time_out", reason)
                self.executor.cancel(number)

    def _say(self, event: str) -> None:
        ledger = self._ledger
        left = None
        if self._ended:
            each = (time.monotonic() - self._started) / self._ended
            left = each * max(0, self._claims.target - ledger.finished)
        self.on_progress(
            Progress(
                target=self._claims.target,
                complete=ledger.count[TrialState.COMPLETE],
                pruned=ledger.count[TrialState.PRUNED],
                failed=ledger.count[TrialState.FAIL],
                running=len(self._jobs),
                best=None if ledger.best is None else ledger.best.value,
                best_number=None if ledger.best is None else ledger.best.number,
                event=event,
                seconds_left=left,
            )
        )
