"""Run a trial of a study again, from what it stored, and compare."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rmexp.errors import DriftError
from rmexp.reward.checkpoint_files import CHECKPOINTS, remove_checkpoints
from rmexp.sweep.drift import content_drift
from rmexp.sweep.study import StudyFolder
from rmexp.trial.record import FILE_NAME, MODEL, TrialIdentity, TrialRecord

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
        compared: metrics that both runs were compared in, besides the objective.
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
        end = "equal to the last digit" if self.equal else "NOT equal"
        return f"{end}: objective and {self.compared} metrics{weights}"


def rerun(
    folder: StudyFolder, number: int, *, on_drift: OnDrift = "refuse", tracker: str | None = None
) -> Rerun:
    """Run a trial again from its stored config, not from today's YAML.

    Args:
        folder: of the study.
        number: of the trial.
        on_drift: what to do where data, rules, rater, code or versions have changed.
        tracker: another tracker kind than the stored one.

    Raises:
        DriftError: something has changed and ``on_drift`` is refuse; it is named.
        UserError: the trial has no record.
    """
    old = TrialRecord.read(folder.trial(number))
    config = old.trial_config
    drift = refuse_drift(folder, number, old, on_drift)
    if tracker is not None:
        config = config.model_copy(
            update={"tracker": config.tracker.model_copy(update={"kind": tracker})}
        )
    from rmexp.trial.run import run_trial

    attempt, directory = _free_directory(folder, number)
    identity = TrialIdentity(folder.name, number, attempt, "rerun")
    new = run_trial(config, directory=directory, identity=identity)
    remove_checkpoints(directory / CHECKPOINTS)  # where it failed: nothing goes on from a rerun
    names = sorted(n for n in {*old.metrics, *new.metrics} if n.startswith(_COMPARED))
    unequal = {
        n: (old.metrics.get(n), new.metrics.get(n))
        for n in names
        if old.metrics.get(n) != new.metrics.get(n)
    }
    if old.objective != new.objective:
        unequal["objective"] = (old.objective, new.objective)
    same_weights = _same_weights(folder.trial(number) / MODEL, directory / MODEL)
    return Rerun(old, new, directory, drift, unequal, len(names), same_weights)


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
