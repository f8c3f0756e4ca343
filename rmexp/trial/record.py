"""What a trial leaves behind: one JSON file, written atomically."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rmexp.errors import UserError
from rmexp.trial.failure import FailureKind
from rmexp.trial.schema import TrialConfig, trial_config

FILE_NAME = "record.json"
MODEL = "model"
FORMAT = 1
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialIdentity:
    """Which trial of which study; all None or 0 for a single run.

    Attributes:
        study: name of the study.
        number: the trial's number in it.
        attempt: 0 at first, one more each time the trial is taken up again.
        job_type: trial, confirm or rerun.
        seed: which of the trial's seeds; None for the trial itself.
    """

    study: str | None = None
    number: int | None = None
    attempt: int = 0
    job_type: str = "trial"
    seed: int | None = None

    @property
    def run_id(self) -> str | None:
        """The tracker's run id, the same for the same attempt; None for a single run."""
        if self.study is None:
            return None
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"{self.study}-{self.job_type}-{self.number}-{self.attempt}{seed}"


@dataclass(frozen=True)
class TrialRecord:
    """The result of a trial.

    Attributes:
        state: complete, pruned or failed.
        reason: why it was pruned or failed; empty when complete.
        objective: the first number that the search maximises or minimises; None unless complete or
            pruned after a measurement.
        config: the resolved config as plain data.
        identity: which trial of which study.
        metrics: flat numbers: ``validation/...``, ``train/...``, ``labels/...``, ``ratings/...``.
        history: one dict an epoch; counted on over several seeds, with the ``seed`` of each.
        fingerprints: of pairs, splits, rules, rater, labels, model and code.
        versions: of Python and the libraries whose change could move a result.
        times: seconds of each step, and the start as ISO time.
        paths: below the trial's directory: ``model``, ``tracker``.
        report: counts of what was read, dropped, truncated, and why.
        traceback: the end of it where the trial failed.
        failure: the kind of failure; None unless failed.
        objectives: one number an objective; empty as ``objective`` is None.
    """

    state: State
    reason: str
    objective: float | None
    config: dict[str, Any]
    identity: TrialIdentity
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    fingerprints: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int | list[int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""
    failure: FailureKind | None = None
    objectives: list[float] = field(default_factory=list)

    @property
    def trial_config(self) -> TrialConfig:
        """The stored config, checked."""
        return trial_config(self.config)

    def write(self, directory: Path) -> Path:
        """Write ``record.json`` so that a reader sees the whole of it or nothing."""
        path = directory / FILE_NAME
        write_json(path, {"format": FORMAT, **asdict(self)})
        return path

    @classmethod
    def read(cls, directory: Path) -> TrialRecord:
        """Read a trial's record.

        Raises:
            UserError: where there is none, or it is of another format.
        """
        path = directory / FILE_NAME
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no record; the trial has not finished") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}: not a trial record: {error.msg}") from error
        if plain.pop("format", None) != FORMAT:
            raise UserError(f"{path}: a record of another format; this rmexp reads {FORMAT}")
        identity = TrialIdentity(**plain.pop("identity"))
        return cls(identity=identity, **plain)


def write_json(path: Path, plain: Any) -> None:
    """Write JSON atomically and durably: a crash leaves the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(plain, stream, indent=2, ensure_ascii=False, allow_nan=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
