"""The study and its folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.ledger import WARM_START, Ledger
from rmexp.sweep.outcome import guard_values
from rmexp.sweep.samplers import make_pruner, violations
from rmexp.sweep.schema import SweepConfig
from rmexp.sweep.storages import NoStudy, open_storage
from rmexp.trial.record import write_json

# Attribute of a study: the config of the executor that its sweep was started with last.
EXECUTOR = "executor"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class StudyFolder:
    """The study's files: ``study.db`` or ``study.journal``, ``trials/0007/``, ``reruns/``."""

    root: Path

    @classmethod
    def of(cls, output_dir: Path | str, study: str) -> StudyFolder:
        """The folder of a study below the output folder."""
        return cls(Path(output_dir) / "studies" / study)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.root.name

    @property
    def database(self) -> Path:
        """SQLite file of the study."""
        return self.root / "study.db"

    def trial(self, number: int) -> Path:
        """Directory of a trial."""
        return self.trials / f"{number:04d}"

    @property
    def trials(self) -> Path:
        """Holds the trials' directories."""
        return self.root / "trials"

    @property
    def journal(self) -> Path:
        """Journal file of the study, with ``sweep.storage=journal``."""
        return self.root / "study.journal"

    @property
    def marker(self) -> Path:
        """Says where Optuna keeps the study, where that is not in this folder."""
        return self.root / "storage.json"

    @property
    def locks(self) -> Path:
        """Lock files of the controllers."""
        return self.root / "controllers"

    def storage_url(self, configured: str | None) -> str:
        """The Optuna storage: as configured, or a file in this folder."""
        if configured == "journal" or (configured is None and self._has_journal):
            return f"journal:///{self.journal.resolve()}"
        if configured is None and self.marker.exists():
            return str(json.loads(self.marker.read_text(encoding="utf-8"))["storage"])
        return configured or f"sqlite:///{self.database.resolve()}"

    @property
    def _has_journal(self) -> bool:
        # One that was opened and never written to holds no study.
        return self.journal.exists() and self.journal.stat().st_size > 0

    @property
    def changed(self) -> float | None:
        """When the study last changed, in seconds since the epoch; None where there is none."""
        files = [p for p in (self.database, self.journal, self.marker) if p.exists()]
        return max((p.stat().st_mtime for p in files), default=None)

    def mark(self, configured: str | None) -> None:
        """Note a storage elsewhere, so that the study is found by its name; never a password."""
        if configured is None or configured == "journal":
            return
        write_json(self.marker, {"storage": _without_password(configured)})

    def make(self) -> None:
        """Make the folder; UserError where that cannot be done."""
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir: cannot make {self.root}: {error.strerror}") from error

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the study for what a controller does once when it comes, before it runs trials."""
        self.locks.mkdir(parents=True, exist_ok=True)
        with (self.locks / "open.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """Hold the study for work that only one process may do, such as a confirmation.

        Sweeps do not need it: several controllers may run one study. The lock dies with the
        process.

        Raises:
            UserError: another process holds it.
        """
        handle = os.open(self.root / "controller.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.read(handle, 64).decode(errors="replace").strip()
                raise UserError(
                    f"study '{self.name}' is being run by another process ({owner}); "
                    "wait for it, or give study=ANOTHER_NAME"
                ) from error
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()}".encode())
            yield
        finally:
            os.close(handle)


def open_study(folder: StudyFolder, config: SweepConfig) -> optuna.Study:
    """Create the study, or go on with it.

    Raises:
        UserError: the storage cannot be opened or is not the study's, or the study has other
            directions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Two controllers that start together must not both create the tables.
    with folder.opened():
        study = optuna.create_study(
            study_name=folder.name,
            storage=_its_storage(folder, config.storage),
            directions=config.directions,
            load_if_exists=True,
            pruner=make_pruner(config.pruner),
        )
        folder.mark(config.storage)
    check_directions(study, config)
    return study


def check_directions(study: optuna.Study, config: SweepConfig) -> None:
    """Refuse a study that was made with other directions.

    Raises:
        UserError: naming the key.
    """
    made = [d.name.lower() for d in study.directions]
    if made != config.directions:
        raise UserError(
            f"sweep.direction: study '{study.study_name}' was made to {', '.join(made)}; "
            "use the same direction or another study name"
        )


def _its_storage(folder: StudyFolder, configured: str | None) -> BaseStorage:
    """Open the storage, unless the trials in the folder belong to another.

    A new study would number its trials from 0 and take their directories' records for its own.
    """
    url, known = folder.storage_url(configured), folder.storage_url(None)
    if not any(folder.trials.glob("*")):
        return open_storage(url)
    if _without_password(url) != _without_password(known):
        raise UserError(
            f"sweep.storage: study '{folder.name}' is kept in {_without_password(known)}; leave "
            "sweep.storage out to go on with it, or give another study=NAME"
        )
    gone = folder.changed is None
    storage = None if gone else open_storage(url)
    if storage is None or folder.name not in optuna.get_all_study_names(storage):
        raise UserError(
            f"sweep.storage: {_without_password(url)} holds no study '{folder.name}', but "
            f"{folder.trials} holds its trials; bring the storage back, or give another study=NAME"
        )
    return storage


def load_study(output_dir: Path | str, name: str, storage: str | None = None) -> optuna.Study:
    """Open an existing study for reading.

    Raises:
        NoStudy: there is none of that name; the known ones are named.
        UserError: its storage cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = StudyFolder.of(output_dir, name)
    if storage is None and folder.changed is None:
        known = sorted(other.name for other in studies_below(output_dir))
        hint = f"known: {', '.join(known)}" if known else f"no study below {output_dir}"
        raise NoStudy(f"study: no study '{name}' ({hint}); give --output-dir if it is elsewhere")
    try:
        return optuna.load_study(
            study_name=name, storage=open_storage(folder.storage_url(storage), write=False)
        )
    except KeyError as error:
        raise NoStudy(f"study: the storage holds no study '{name}'") from error


def studies_below(output_dir: Path | str) -> list[StudyFolder]:
    """Every study below the output folder, newest first, wherever Optuna keeps it."""
    folders = [StudyFolder(path) for path in (Path(output_dir) / "studies").glob("*")]
    found = [(folder.changed, folder) for folder in folders]
    dated = [(changed, folder) for changed, folder in found if changed is not None]
    return [folder for _, folder in sorted(dated, key=lambda pair: -pair[0])]


def _without_password(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    login, at, host = place.rpartition("@")
    return f"{scheme}{slashes}{login.partition(':')[0]}{at}{host}{slash}{path}"


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete and pruned trials of this study, by number."""
    return [
        t
        for t in study.get_trials(deepcopy=False, states=FINISHED)
        if WARM_START not in t.user_attrs
    ]


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial with the best objective.

    Raises:
        UserError: no trial is complete, or there are several objectives.
    """
    if len(study.directions) > 1:
        raise UserError(
            f"study '{study.study_name}' has several objectives, so no single best trial; its "
            "front stands in the final table; give --trial NUMBER"
        )
    ledger = Ledger(study)
    ledger.refresh()
    if ledger.best is None:
        raise UserError(nothing_to_choose(study))
    return ledger.best


def nothing_to_choose(study: optuna.Study) -> str:
    """Why a study has no best trial, in words."""
    complete = [t for t in finished_trials(study) if t.state == TrialState.COMPLETE]
    if not complete:
        return f"study '{study.study_name}': no trial is complete yet"
    nearest = min(complete, key=lambda t: max(violations(t)))
    broken = guard_values(nearest.user_attrs.get("metrics", {}))
    guard, by = max(broken.items(), key=lambda item: item[1], default=("a guard", 0.0))
    return (
        f"study '{study.study_name}': every complete trial breaks a guard (evaluation.guards); "
        f"trial {nearest.number} comes nearest, and breaks '{guard}' by {by:.4g}; run more trials, "
        "or another study with looser guards"
    )


def kept_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials that keep the guards, by number."""
    return [
        t
        for t in finished_trials(study)
        if t.state == TrialState.COMPLETE and not any(v > 0 for v in violations(t))
    ]


def as_good_as(study: optuna.Study, best: FrozenTrial) -> list[int]:
    """Numbers of the trials with other points whose objective is that of the best one."""
    return [
        t.number for t in kept_trials(study) if t.value == best.value and t.params != best.params
    ]


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials that keep the guards and that no other such trial dominates."""
    signs = [1 if d == optuna.study.StudyDirection.MAXIMIZE else -1 for d in study.directions]
    kept = kept_trials(study)

    def dominates(a: FrozenTrial, b: FrozenTrial) -> bool:
        pairs = [(s * x, s * y) for s, x, y in zip(signs, a.values, b.values, strict=True)]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    return [t for t in kept if not any(dominates(other, t) for other in kept)]
