"""Run a trial of a study again, from what it stored, and compare."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rmexp.errors import DriftError
from rmexp.sweep.drift import content_drift
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import FILE_NAME, MODEL, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig

if TYPE_CHECKING:
    from rmexp.trial.steps import Report

OnDrift = Literal["refuse", "warn"]
RERUNS = "reruns"  # folder below the study's
# Compared bit for bit; times and cache hits may differ.
_COMPARED = ("validation/", "train/loss", "labels/")


@dataclass(frozen=True)
class Rerun:
    """A trial run again.

    Attributes:
        old: the stored record.
        new: the new record.
        directory: of the new run.
        drift: what has moved since, in words.
        unequal: metrics that differ, name to (old, new).
        compared: numbers that both runs were compared in, besides the objective: those of the
            end, and those after each epoch.
        same_weights: whether the trained weights are equal byte for byte; None where one of the
            runs keeps no model.
    """

    old: TrialRecord
    new: TrialRecord
    directory: Path
    drift: list[str]
    unequal: dict[str, tuple[float | None, float | None]]
    compared: int
    same_weights: bool | None

    @property
    def equal(self) -> bool:
        """Whether the run was repeated to the last digit."""
        same = self.new.state == self.old.state and not self.unequal
        return same and self.same_weights is not False

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
        end = "equal to the last digit" if self.equal else "NOT equal"
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
    then, now = _numbers(old, new), _numbers(new, old)
    unequal = {
        name: (then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }
    compared = len(then.keys() | now.keys()) - 1
    same_weights = _same_weights(folder.trial(number) / MODEL, directory / MODEL)
    return Rerun(old, new, directory, drift, unequal, compared, same_weights)


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
        DriftError: something has, and ``on_drift`` is refuse.
    """
    drift = [*_version_drift(old), *content_drift(old)]
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
