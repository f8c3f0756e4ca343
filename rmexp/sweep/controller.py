"""The controller: asks Optuna for points, keeps the executor's slots busy, tells results."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.job import Ended, Executor, TrialJob
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.space import Space
from rmexp.sweep.study import FINISHED, StudyFolder
from rmexp.trial.record import MODEL, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig

ConfigFor = Callable[[dict[str, Any]], TrialConfig]


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands.

    Attributes:
        target: finished trials wanted in the study.
        complete, pruned, failed, running: trials by state.
        best: best objective so far.
        best_number: the trial that has it.
        event: what has just happened, in words.
        seconds_left: estimate; None before the first trial of this run has ended.
    """

    target: int
    complete: int
    pruned: int
    failed: int
    running: int
    best: float | None
    best_number: int | None
    event: str
    seconds_left: float | None


@dataclass
class Controller:
    """Runs a study up to its target.

    The target counts the finished (complete or pruned) trials of the study, not of this run: the
    same command after an interruption goes on to exactly that number.

    Attributes:
        study: Optuna's study.
        folder: of the study.
        config: of the sweep.
        space: the searched keys.
        config_for: resolved trial config of a point; raises UserError where it cannot run.
        executor: runs the trials.
        on_progress: told after each event.
    """

    study: optuna.Study
    folder: StudyFolder
    config: SweepConfig
    space: Space
    config_for: ConfigFor
    executor: Executor
    on_progress: Callable[[Progress], None] = lambda progress: None
    _running: dict[int, Trial] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _ended: int = 0
    _failures: int = 0

    def run(self) -> None:
        """Run to the target, the time limit or the failure limit.

        Raises:
            UserError: more trials failed than ``sweep.max_failures`` allows.
        """
        self._take_up_orphans()
        try:
            while True:
                self._fill_slots()
                if not self._running:
                    return
                for ended in self.executor.wait(self._on_report, timeout=1.0):
                    self._settle(ended)
        finally:
            self.executor.close()

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots and self._wants_more():
            trial = self.study.ask(self.space.distributions)
            if not self._copy_duplicate(trial):
                self._submit(trial)

    def _wants_more(self) -> bool:
        if self.config.timeout and time.monotonic() - self._started > self.config.timeout:
            return False
        finished = len(self.study.get_trials(deepcopy=False, states=FINISHED))
        return finished + len(self._running) < self.config.trials

    def _submit(self, trial: Trial) -> None:
        config = self.config_for(self.space.values(trial.params))
        if config.trainer.threads is None:
            config = config.model_copy(
                update={
                    "trainer": config.trainer.model_copy(update={"threads": self.executor.threads})
                }
            )
        directory = self.folder.trial(trial.number)
        trial.set_user_attr("directory", str(directory.relative_to(self.folder.root)))
        identity = TrialIdentity(self.study.study_name, trial.number)
        self._running[trial.number] = trial
        self.executor.submit(TrialJob(identity, config.to_plain(), directory))
        self._tell_progress(f"trial {trial.number} started: {_params(trial.params)}")

    def _copy_duplicate(self, trial: Trial) -> bool:
        """A point that is complete already is not trained twice: same config, same seed."""
        for other in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if other.params == trial.params and other.number != trial.number:
                trial.set_user_attr("duplicate_of", other.number)
                trial.set_user_attr("directory", other.user_attrs["directory"])
                self.study.tell(trial, other.values)
                self._tell_progress(f"trial {trial.number} repeats trial {other.number}: copied")
                return True
        return False

    def _on_report(self, number: int, epoch: int, value: float) -> bool:
        trial = self._running[number]
        trial.report(value, epoch)
        return trial.should_prune()

    def _settle(self, ended: Ended) -> None:
        number = ended.job.number
        trial = self._running.pop(number)
        self._ended += 1
        if ended.lost:
            self._fail(trial, ended.lost)
            return
        record = TrialRecord.read(ended.job.directory)
        for name in ("reason", "metrics"):
            trial.set_user_attr(name, getattr(record, name))
        if record.state == "failed":
            self._fail(trial, record.reason)
        elif record.state == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
            self._tell_progress(f"trial {number} {record.reason}")
        elif record.objective is None:
            self._fail(trial, "no validation pair was measured, so there is no objective")
        else:
            self.study.tell(trial, record.objective)
            self._tell_progress(f"trial {number} complete: {record.objective:.4f}")
        self._remove_unwanted_models()

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)
        self._failures += 1
        self._tell_progress(f"trial {trial.number} failed: {reason}")
        if self._failures > self.config.max_failures:
            raise UserError(
                f"sweep.max_failures: {self._failures} trials failed in this run, the last with: "
                f"{reason} (log: {self.folder.trial(trial.number) / 'log.txt'})"
            )

    def _take_up_orphans(self) -> None:
        """Trials that an earlier controller left running are dead: we hold the study's lock.

        Their points are run again as new trials, in directories of their own, so that nothing a
        dead trial wrote is mistaken for its successor's.
        """
        for orphan in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._finished_unnoticed(orphan):
                continue
            trial = _handle(self.study, orphan)
            trial.set_user_attr("reason", "interrupted: its controller ended")
            self.study.tell(orphan.number, state=TrialState.FAIL)
            self.study.enqueue_trial(orphan.params, user_attrs={"retry_of": orphan.number})
            self._tell_progress(f"trial {orphan.number} was interrupted: its point runs again")

    def _finished_unnoticed(self, orphan: FrozenTrial) -> bool:
        """A trial whose record was written before its controller died counts as it stands."""
        try:
            record = TrialRecord.read(self.folder.trial(orphan.number))
        except UserError:
            return False
        if record.state == "failed" or record.objective is None:
            return False
        trial = _handle(self.study, orphan)
        for name in ("reason", "metrics"):
            trial.set_user_attr(name, getattr(record, name))
        if record.state == "pruned":
            self.study.tell(orphan.number, state=TrialState.PRUNED)
        else:
            self.study.tell(orphan.number, record.objective)
        self._tell_progress(f"trial {orphan.number} had finished ({record.state})")
        return True

    def _remove_unwanted_models(self) -> None:
        """Keep the trained models that ``sweep.keep`` names; records and logs always stay."""
        if self.config.keep == "all":
            return
        done = self.study.get_trials(deepcopy=False, states=FINISHED)
        complete = [t for t in done if t.state == TrialState.COMPLETE]
        if not complete:
            return
        wanted = self.study.best_trial if self.config.keep == "best" else complete[-1]
        keep = wanted.user_attrs.get("directory")
        for trial in done:
            directory = trial.user_attrs.get("directory")
            if directory and directory != keep:
                shutil.rmtree(self.folder.root / directory / MODEL, ignore_errors=True)

    def _tell_progress(self, event: str) -> None:
        trials = self.study.get_trials(deepcopy=False)
        count = {state: sum(t.state == state for t in trials) for state in TrialState}
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        best = self.study.best_trial if complete else None
        finished = count[TrialState.COMPLETE] + count[TrialState.PRUNED]
        left = None
        if self._ended:
            each = (time.monotonic() - self._started) / self._ended
            left = each * max(0, self.config.trials - finished)
        self.on_progress(
            Progress(
                target=self.config.trials,
                complete=count[TrialState.COMPLETE],
                pruned=count[TrialState.PRUNED],
                failed=count[TrialState.FAIL],
                running=len(self._running),
                best=None if best is None else best.value,
                best_number=None if best is None else best.number,
                event=event,
                seconds_left=left,
            )
        )


def _handle(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    return Trial(study, frozen._trial_id)


def _params(params: dict[str, Any]) -> str:
    return ", ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={json.dumps(v)}"
        for k, v in params.items()
    )
