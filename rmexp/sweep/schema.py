"""The schema of a sweep: the search space, the sampler, the budget, where trials run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rmexp.trial.failure import FailureKind
from rmexp.trial.section import Section

Direction = Literal["maximize", "minimize"]
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _retry_lost_workers() -> dict[FailureKind, int]:
    return {"lost_worker": 1}


class SamplerConfig(Section):
    """Optuna's sampler."""

    kind: Literal["tpe", "random", "grid", "gp", "cmaes", "qmc", "nsga2", "nsga3"] = "tpe"
    seed: int = Field(0, ge=0, description="of the sampler; the trials' own seed is `seed`")
    startup_trials: int = Field(
        5, ge=1, description="random trials before the model is asked (tpe, gp, cmaes)"
    )

    @model_validator(mode="after")
    def _startup_has_an_effect(self) -> SamplerConfig:
        if self.kind in ("qmc", "nsga2", "nsga3"):
            _refuse_set(self, "sweep.sampler", "startup_trials")
        return self


class PrunerConfig(Section):
    """Optuna's pruner, on the objective that a trial reports after each epoch."""

    kind: Literal["none", "median", "percentile", "asha", "hyperband", "patient"] = "none"
    startup_trials: int = Field(
        5, ge=0, description="trials before anything is pruned (median, percentile)"
    )
    warmup_epochs: int = Field(
        0, ge=0, description="epochs of a trial before it can be pruned (not patient)"
    )
    percentile: float = Field(25.0, gt=0, lt=100, description="kept share in percent (percentile)")
    patience: int = Field(1, ge=0, description="epochs without progress to allow (patient)")

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> PrunerConfig:
        if self.kind in ("asha", "hyperband", "patient"):
            _refuse_set(self, "sweep.pruner", "startup_trials")
        if self.kind == "patient":
            _refuse_set(self, "sweep.pruner", "warmup_epochs")
        return self


def _refuse_set(section: SamplerConfig | PrunerConfig, where: str, key: str) -> None:
    """Refuse a key that the section's kind takes no notice of, where it is not the default."""
    if getattr(section, key) != type(section).model_fields[key].default:
        raise ValueError(f"{where}.{key}: has no effect with kind={section.kind}; leave it out")


class SweepConfig(Section):
    """A search over the keys of a trial."""

    space: dict[str, Any] = Field(
        default_factory=dict, description="key to an expression in Hydra's sweep grammar"
    )
    trials: int = Field(10, ge=1, description="finished (complete or pruned) trials in the study")
    direction: Direction | list[Direction] = Field(
        "maximize", description="of evaluation.objective; a list where there are several"
    )
    enqueue: list[dict[str, Any]] = Field(
        default_factory=list, description="points to run first; keys left out are sampled"
    )
    warm_start: list[str] = Field(
        default_factory=list,
        description="studies whose finished trials the sampler learns from (tpe, gp); each start "
        "takes those that are new",
    )
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    storage: str | None = Field(
        None,
        description="None is SQLite in the study's folder, for one host; `journal` is a file there "
        "and `journal:///path` one elsewhere, for shared file systems; or a database URL",
    )

    @field_validator("storage", mode="after")
    @classmethod
    def _storage_is_known(cls, value: str | None) -> str | None:
        if value is not None and value != "journal" and "://" not in value:
            raise ValueError(
                f"must be null, journal, or a URL such as sqlite:///file.db, got {value!r}"
            )
        return value

    max_failures: int = Field(5, ge=0, description="failed trials after which the sweep stops")
    retry: dict[FailureKind, int] = Field(
        default_factory=_retry_lost_workers,
        description="how often a point is run again after a failure of that kind",
    )
    timeout: float | None = Field(None, gt=0, description="seconds after which no trial starts")
    trial_timeout: float | None = Field(
        None,
        gt=0,
        description="seconds after which a trial is stopped as failed; they count from where it "
        "runs, and after a preemption from where it runs again",
    )
    lease: float = Field(
        60.0,
        gt=0,
        description="seconds of silence after which others take a controller for dead",
    )
    keep: Literal["best", "last", "all"] = Field(
        "best", description="which trained models stay; best of several objectives: the front"
    )
    dry_run: bool = Field(False, description="print the space and the first points, train nothing")

    @model_validator(mode="after")
    def _sampler_learns_from_others(self) -> SweepConfig:
        if self.warm_start and self.sampler.kind not in ("tpe", "gp"):
            raise ValueError(
                f"sweep.warm_start: the sampler {self.sampler.kind} takes no notice of other "
                "studies' trials; use tpe or gp"
            )
        return self

    @property
    def directions(self) -> list[Direction]:
        """The directions as a list; one for a single objective."""
        return [self.direction] if isinstance(self.direction, str) else self.direction


class InlineExecutorConfig(Section):
    """One trial after the other in the controller's process."""

    kind: Literal["inline"]


class ProcessExecutorConfig(Section):
    """Warm worker processes on this machine: imports loaded, weights mapped from their files."""

    kind: Literal["process"] = "process"
    slots: int | None = Field(
        None,
        ge=1,
        description="trials at once; null: one for each trainer.devices GPUs, or CPU cores and "
        "then 8 at most",
    )


class SubmititExecutorConfig(Section):
    """Jobs of SLURM, each a trial, by submitit."""

    kind: Literal["submitit"]
    cluster: Literal["slurm", "local"] = Field(
        "slurm", description="local: processes of this machine, to try a setup out"
    )
    slots: int = Field(8, ge=1, description="jobs at once, those that wait in the queue among them")
    minutes: int = Field(240, ge=1, description="time limit of a job, after which it is requeued")
    requeues: int = Field(
        3, ge=0, description="how often a job that ran out of time goes on in a new one"
    )
    cpus: int = Field(4, ge=1, description="CPU cores of each rank (trainer.devices)")
    memory_gb: int | None = Field(None, ge=1, description="of a job; null: the partition's default")
    slurm: dict[str, Any] = Field(
        default_factory=dict,
        description="further options of sbatch as submitit names them, such as partition, qos, "
        "account, constraint, setup",
    )


class RayExecutorConfig(Section):
    """Ray tasks, each a trial with its CPUs and GPUs."""

    kind: Literal["ray"]
    address: str | None = Field(
        None, description="of a running cluster, such as `auto`; null starts Ray on this machine"
    )
    slots: int | None = Field(
        None, ge=1, description="trials at once; null: as many as the cluster has room for"
    )
    cpus: float = Field(1.0, gt=0, description="CPU cores of each rank (trainer.devices)")


ExecutorConfig = Annotated[
    InlineExecutorConfig | ProcessExecutorConfig | SubmititExecutorConfig | RayExecutorConfig,
    Field(discriminator="kind"),
]


class StudyConfig(Section):
    """What `rmexp train -m` and `rmexp sweep` know beside the trial's own config."""

    study: str | None = Field(None, description="name of the study; its folder and W&B group")
    output_dir: str = Field("outputs", description="studies and single runs go below it")
    ckpt_path: str | None = Field(
        None,
        description="`rmexp train` alone: the folder of a run to go on from, or `last`: the "
        "newest below output_dir with a checkpoint (trainer.checkpoint_steps) and no end",
    )
    sweep: SweepConfig = SweepConfig()
    executor: ExecutorConfig = ProcessExecutorConfig()

    @field_validator("study", mode="after")
    @classmethod
    def _study_is_a_folder_name(cls, value: str | None) -> str | None:
        if value is not None and not _STUDY_NAME.fullmatch(value):
            raise ValueError(
                f"must be letters, digits, dots, dashes and underscores, got {value!r}"
            )
        return value
