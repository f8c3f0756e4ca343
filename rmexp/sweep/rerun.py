"""Run a trial of a study again, from what it stored, and compare."""

from __future__ import annotations

import filecmp
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmexp.errors import DriftError, UserError
from rmexp.sweep.drift import config_drift, content_drift
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import FILE_NAME, MODEL, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrainerConfig, TrialConfig
from rmexp.trial.unfinished import remove_progress

if TYPE_CHECKING:
    import optuna

    from rmexp.trial.steps import Report

OnDrift = Literal["refuse", "warn"]
RERUNS = "reruns"  # folder below the study's
# Times and cache hits may differ.
_COMPARED = ("validation/", "train/loss", "labels/")
# How far numbers may be apart that a device does not give to the last digit: of 1, or of the
# number where that is larger. Some of a hundred validation pairs may change sides.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Rerun:
    """A trial run again.

    Attributes:
        old: the stored record.
        new: the new record.
        directory: of the new run.
        drift: what has moved since, in words.
        unequal: metrics that differ by more than the tolerance, name to (old, new).
        compared: numbers that both runs were compared in, besides the objective: those of the
            end, and those after each epoch.
        same_weights: whether the trained weights are equal byte for byte; None where one of the
            runs keeps no model, or they need not be.
        tolerance: how far numbers may be apart; 0 where every digit must agree.
    """

    old: TrialRecord
    new: TrialRecord
    directory: Path
    drift: list[str]
    unequal: dict[str, tuple[float | None, float | None]]
    compared: int
    same_weights: bool | None
    tolerance: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether the run was repeated: to the last digit, or within the tolerance."""
        same = self.new.state == self.old.state and not self.unequal
        return same and self.same_weights is not False

    @property
    def device(self) -> str:
        """The accelerator of both."""
        return self.old.trial_config.trainer.accelerator

    @property
    def verdict(self) -> str:
        """What was compared, and whether it is equal, in words."""
        weights = {
            True: ", weights byte for byte",
            False: "; the weights differ",
            None: "; weights not compared, since the trial's own are not kept (sweep.keep)",
        }[self.same_weights]
        if self.old.state == self.new.state == "pruned":
            weights = f"; pruned after epoch {self.old.history[-1]['epoch']:g} both times"
        if self.tolerance:
            weights = (
                f"; weights not compared, since trainer.accelerator={self.device} does not give "
                "the same bits each time as this trial was set (trainer.deterministic, .threads)"
            )
        within = f"within {self.tolerance:g}" if self.tolerance else "to the last digit"
        end = f"equal {within}" if self.equal else f"NOT equal {within}"
        return f"{end}: objective and {self.compared} metrics{weights}"


def rerun(
    folder: StudyFolder, number: int, *, on_drift: OnDrift = "refuse", tracker: str | None = None
) -> Rerun:
    """Run a trial again from its stored config, not from today's YAML.

    One that was pruned is stopped again after the same epoch.

    Args:
        folder: of the study.
        number: of the trial.
        on_drift: what to do where data, rules, rater, model, code or versions have changed.
        tracker: another tracker kind than the stored one.

    Raises:
        DriftError: something has changed and ``on_drift`` is refuse; it is named.
        UserError: the trial has no record.
    """
    old = TrialRecord.read(folder.trial(number))
    drift = refuse_drift(folder, number, old, on_drift)
    config = with_tracker(old.trial_config, tracker)
    from rmexp.trial.run import run_trial

    attempt, directory = _free_directory(folder, number)
    identity = TrialIdentity(folder.name, number, attempt, "rerun")
    new = run_trial(config, directory=directory, identity=identity, report=_stopping_as(old))
    remove_progress(directory)  # where it failed: nothing goes on from a rerun
    allowed = tolerance_of(config.trainer)
    compared, unequal = compare_records(old, new, allowed)
    kept = folder.trial(number) / MODEL, directory / MODEL
    same_weights = None if allowed else _same_weights(*kept)
    return Rerun(old, new, directory, drift, unequal, compared, same_weights, allowed)


def refuse_without_record(study: optuna.Study, folder: StudyFolder, number: int) -> None:
    """Refuse a trial that left nothing to run again, as far as the study knows why.

    Raises:
        UserError: it has no record; its state and what to do are named.
    """
    from rmexp.sweep.leases import gone
    from rmexp.sweep.ledger import CONTROLLER, INTERRUPTED, RETRY, RETRY_OF, state_of

    if (folder.trial(number) / FILE_NAME).is_file():
        return
    trials = study.get_trials(deepcopy=False)
    trial = next(t for t in trials if t.number == number)
    attrs, state = trial.user_attrs, state_of(trial)
    if state == "running" and attrs.get(CONTROLLER) in gone(study, folder.locks):
        state = INTERRUPTED
    reason = f": {attrs['reason']}" if attrs.get("reason") else ""
    again = [t.number for t in trials if t.user_attrs.get(RETRY_OF) == number]
    if again:
        how = f"its point was run again as trial {again[-1]}: give --trial {again[-1]}"
    elif state in ("running", "waiting"):
        how = f"wait for its end: rmexp status {folder.name} --watch"
    elif state == INTERRUPTED or attrs.get(RETRY):
        how = "the sweep's own command runs its point again"
    else:
        how = "give another --trial; the sweep's command with sweep.enqueue runs its point again"
    raise UserError(
        f"--trial {number}: study '{folder.name}' knows it as {state}{reason}; it left no "
        f"{FILE_NAME} to run again; {how}"
    )


def tolerance_of(trainer: TrainerConfig) -> float:
    """How far a rerun's numbers may be from the stored ones; 0 where every digit must agree.

    A CPU gives the same bits at the same number of threads, which a study's trials store; a CUDA
    GPU gives them with deterministic kernels. Nothing of the kind is promised for MPS.
    """
    exact = {"cpu": trainer.threads is not None, "gpu": trainer.deterministic, "mps": False}
    return 0.0 if exact[trainer.accelerator] else TOLERANCE


def compare_records(
    old: TrialRecord, new: TrialRecord, tolerance: float
) -> tuple[int, dict[str, tuple[float | None, float | None]]]:
    """Compare what two runs of one config measured.

    Returns:
        How many numbers were compared besides the objective; and those that differ by more than
        the tolerance, name to (old, new). Labels come from stored ratings, whatever the device,
        and may not differ at all.
    """
    then, now = _numbers(old, new), _numbers(new, old)
    names = sorted(then.keys() | now.keys())
    unequal = {}
    for name in names:
        allowed = 0.0 if name.startswith("labels/") else tolerance
        if not _agree(then.get(name), now.get(name), allowed):
            unequal[name] = (then.get(name), now.get(name))
    return len(names) - 1, unequal


def _agree(old: float | None, new: float | None, tolerance: float) -> bool:
    if old is None or new is None or math.isnan(old) or math.isnan(new):
        return old is new or (old != old and new != new)
    return old == new or abs(old - new) <= tolerance * max(1.0, abs(old), abs(new))


def _stopping_as(old: TrialRecord) -> Report | None:
    """What the search's pruner said after each epoch, where it stopped the trial."""
    if old.state != "pruned":
        return None
    last = old.history[-1]["epoch"]
    return lambda epoch, value: epoch >= last


def _numbers(record: TrialRecord, other: TrialRecord) -> dict[str, float | None]:
    """What a record is compared in, by name: the objective, the end, and each epoch of both."""
    # A trial that went on from a checkpoint may not know its first epochs.
    shared = {row["epoch"] for row in other.history}
    found: dict[str, float | None] = {"objective": record.objective}
    found |= {n: v for n, v in record.metrics.items() if n.startswith(_COMPARED)}
    for row in record.history:
        if row["epoch"] in shared:
            epoch = f"after epoch {row['epoch']:g}"
            found |= {f"{n} {epoch}": v for n, v in row.items() if n.startswith(_COMPARED)}
    return found


def with_tracker(config: TrialConfig, kind: str | None) -> TrialConfig:
    """The config with another kind of tracker; as it is where that is None."""
    if kind is None:
        return config
    return config.model_copy(update={"tracker": config.tracker.model_copy(update={"kind": kind})})


def kept_folder(folder: StudyFolder, number: int) -> Path:
    """The trial's folder, or that of its latest complete rerun where only such a one has a model.

    A rerun repeats the trial's stored config, so that its model is that trial's too.
    """
    own = folder.trial(number)
    if (own / MODEL).is_dir():
        return own
    reruns = sorted(
        (folder.root / RERUNS).glob(f"{number:04d}-*"),
        key=lambda path: int(path.name.partition("-")[2]),
        reverse=True,
    )
    for directory in reruns:
        if (directory / MODEL).is_dir() and (directory / FILE_NAME).is_file():
            return directory
    return own


def measure_kept(folder: StudyFolder, number: int) -> dict[str, Any]:
    """Measure a trial on its test pairs, by its own model or by that of a rerun of it.

    Returns:
        As :func:`rmexp.trial.held_out.measure_on_test`.

    Raises:
        UserError: neither has a model, or the rerun came out otherwise than the trial.
    """
    from rmexp.trial.held_out import FILE_NAME as MEASURED
    from rmexp.trial.held_out import measure_on_test

    own, kept = folder.trial(number), kept_folder(folder, number)
    if kept != own and not (own / MEASURED).exists():
        old, new = TrialRecord.read(own), TrialRecord.read(kept)
        _, unequal = compare_records(old, new, tolerance_of(old.trial_config.trainer))
        if unequal:
            name, (then, now) = next(iter(unequal.items()))
            raise UserError(
                f"{own}: no trained model is kept here, and the rerun {kept} came out otherwise "
                f"({name}: {then} then, {now} now), so that its model is not the trial's"
            )
    return measure_on_test(own, kept / MODEL)


def _same_weights(old: Path, new: Path) -> bool | None:
    files = [{path.name: path for path in sorted(at.glob("*.safetensors"))} for at in (old, new)]
    if not all(files):
        return None
    return files[0].keys() == files[1].keys() and all(
        filecmp.cmp(path, files[1][name], shallow=False) for name, path in files[0].items()
    )


def refuse_drift(
    folder: StudyFolder, number: int, old: TrialRecord, on_drift: OnDrift
) -> list[str]:
    """What has moved since the trial ran, in words; empty where nothing has.

    Raises:
        DriftError: something has, and ``on_drift`` is refuse; or the stored config cannot be read.
    """
    try:
        drift = config_drift(old)
    except UserError as error:
        made_by = old.versions.get("rmexp", "another rmexp")
        raise DriftError(
            f"trial {number} of '{folder.name}': this rmexp cannot read its stored config: {error}"
            f"; run it with the version that made it ({made_by})"
        ) from error
    drift += [*_version_drift(old), *content_drift(old)]
    if drift and on_drift == "refuse":
        raise DriftError(
            f"trial {number} of '{folder.name}' cannot be repeated exactly: {'; '.join(drift)}; "
            "add --on-drift warn to run it all the same"
        )
    return drift


def _free_directory(folder: StudyFolder, number: int) -> tuple[int, Path]:
    attempt = 1
    while True:
        directory = folder.root / RERUNS / f"{number:04d}-{attempt}"
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            return attempt, directory


def _version_drift(old: TrialRecord) -> list[str]:
    from rmexp.trial.versions import library_versions

    today = library_versions()
    return [
        f"{name} was {version}, is {today.get(name, 'absent')}"
        for name, version in old.versions.items()
        if today.get(name) != version
    ]
