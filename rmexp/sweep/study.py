"""The study: Optuna's storage, its samplers and pruners, and the study's folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from rmexp.errors import UserError
from rmexp.sweep.schema import PrunerConfig, SamplerConfig, SweepConfig
from rmexp.sweep.space import Space

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class StudyFolder:
    """The study's files: ``study.db``, ``trials/0007/``, ``reruns/``."""

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
        return self.root / "trials" / f"{number:04d}"

    def storage_url(self, configured: str | None) -> str:
        """The Optuna storage: as configured, or SQLite in this folder."""
        return configured or f"sqlite:///{self.database.resolve()}"

    def make(self) -> None:
        """Make the folder; UserError where that cannot be done."""
        try:
            (self.root / "trials").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir: cannot make {self.root}: {error.strerror}") from error

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """Hold the study against another controller; the lock dies with the process.

        Raises:
            UserError: another controller runs the study.
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


def open_study(folder: StudyFolder, config: SweepConfig, space: Space) -> optuna.Study:
    """Create the study or go on with it.

    The sampler is seeded from (seed, number of existing trials): a resumed study goes on, where
    a fixed seed would propose the old points again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(folder.storage_url(config.storage))
    study = optuna.create_study(
        study_name=folder.name,
        storage=storage,
        direction=config.direction,
        load_if_exists=True,
        pruner=make_pruner(config.pruner),
    )
    if study.direction.name.lower() != config.direction:
        raise UserError(
            f"sweep.direction: study '{folder.name}' was made to {study.direction.name.lower()}; "
            "use the same direction or another study name"
        )
    study.sampler = make_sampler(config.sampler, space, len(study.get_trials(deepcopy=False)))
    return study


def load_study(output_dir: Path | str, name: str, storage: str | None = None) -> optuna.Study:
    """Open an existing study for reading.

    Raises:
        UserError: there is none of that name; the known ones are named.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = StudyFolder.of(output_dir, name)
    if storage is None and not folder.database.exists():
        known = sorted(p.parent.name for p in folder.root.parent.glob("*/study.db"))
        hint = f"known: {', '.join(known)}" if known else f"no study below {output_dir}"
        raise UserError(f"study: no study '{name}' ({hint}); give --output-dir if it is elsewhere")
    return optuna.load_study(study_name=name, storage=folder.storage_url(storage))


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete and pruned trials, by number."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial with the best objective.

    Raises:
        UserError: no trial is complete.
    """
    try:
        return study.best_trial
    except ValueError as error:
        raise UserError(f"study '{study.study_name}': no trial is complete yet") from error


def make_sampler(config: SamplerConfig, space: Space, existing: int) -> Any:
    """Optuna's sampler of that name, seeded from (seed, existing trials)."""
    seed = (config.seed * 1_000_003 + existing) % 2**32
    if config.kind == "tpe":
        # constant_liar: with several trials running, do not propose their neighbourhood again.
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True
        )
    if config.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.kind == "grid":
        return optuna.samplers.GridSampler(_grid(space), seed=config.seed)
    if config.kind == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup_trials)
    if config.kind == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=config.startup_trials)
    if config.kind == "qmc":
        return optuna.samplers.QMCSampler(seed=config.seed, scramble=True)
    if config.kind == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.NSGAIIISampler(seed=seed)


def make_pruner(config: PrunerConfig) -> Any:
    """Optuna's pruner of that name."""
    startup, warmup = config.startup_trials, config.warmup_epochs
    if config.kind == "none":
        return optuna.pruners.NopPruner()
    if config.kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    if config.kind == "percentile":
        return optuna.pruners.PercentilePruner(
            config.percentile, n_startup_trials=startup, n_warmup_steps=warmup
        )
    if config.kind == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, warmup))
    if config.kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, warmup))
    return optuna.pruners.PatientPruner(None, patience=config.patience)


def _grid(space: Space) -> dict[str, list[Any]]:
    grid: dict[str, list[Any]] = {}
    for dimension in space.dimensions:
        d = dimension.distribution
        if isinstance(d, CategoricalDistribution):
            grid[dimension.key] = list(d.choices)
        elif isinstance(d, FloatDistribution) and d.step is None:
            raise UserError(
                f"sweep.sampler.kind: grid needs finite ranges, but {dimension.key} is an "
                "interval; write choice(...) or range(start, stop, step)"
            )
        else:
            count = int(dimension.size)
            grid[dimension.key] = [d.low + i * d.step for i in range(count)]
    return grid
