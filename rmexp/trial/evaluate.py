"""The command evaluate: any reward model on any set of judged responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rmexp.errors import UserError
from rmexp.trial import reference_files
from rmexp.trial.evaluation_schema import SuiteConfig
from rmexp.trial.record import FILE_NAME, MODEL, TrialRecord
from rmexp.trial.schema import DataConfig
from rmexp.trial.section import Section

if TYPE_CHECKING:
    from rmexp.evaluation.scorer import Scorer
    from rmexp.evaluation.sets import EvaluationSet, SetResult

# As conf/evaluate.yaml has it: written where the suite has such files.
_RESULTS = "results"


class EvaluatedModelConfig(Section):
    """Which model, and how it is run."""

    path: str | None = Field(None, description="folder of a trained model, or a hub name")
    template: Literal["auto", "chat", "plain", "pair"] | None = Field(
        None, description="how prompt and response become text; null: as stored, else auto"
    )
    max_length: int | None = Field(None, ge=8, description="tokens; null: as stored, else 2048")
    precision: Literal["32", "bf16"] = "32"
    device: str = Field(
        "auto", description="cpu, mps, cuda:1; cuda: all GPUs; auto: those, else the CPU"
    )
    target: str | None = Field(
        None, description="package.module:Class with a method score, instead of a path"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of target")

    @model_validator(mode="after")
    def _one_model(self) -> EvaluatedModelConfig:
        if self.path is None and self.target is None:
            raise ValueError("model.path: missing; give model.path=FOLDER_OR_HUB_NAME")
        if self.path is not None and self.target is not None:
            raise ValueError("model.path and model.target are two models; give one")
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        for key in ("template", "max_length", "precision", "device"):
            if self.target is not None and getattr(self, key) != defaults[key]:
                raise ValueError(f"model.{key} is for model.path; a class takes model.options")
        if self.path is not None and self.options:
            raise ValueError("model.options are keyword arguments of model.target; drop them")
        return self


class EvaluateConfig(Section):
    """What is scored, on what."""

    model: EvaluatedModelConfig
    suite: SuiteConfig = SuiteConfig()
    data: DataConfig = DataConfig()
    part: Literal["train", "validation", "test", "all"] = Field(
        "test", description="which part of the split (suite=pairs)"
    )
    out: str | None = Field(None, description="JSON file for the whole result")
    picture: str | None = Field(None, description="HTML file for intervals and reliability")
    results_dir: str | None = Field(
        None, description="folder for the reference's files of RewardBench 1 and 2, a folder each"
    )
    cache_dir: str = Field("", description="converted models")

    @model_validator(mode="after")
    def _keys_are_for_the_suite(self) -> EvaluateConfig:
        kind = self.suite.kind
        if kind != "pairs" and self.part != "test":
            raise ValueError(f"part={self.part} is for suite=pairs, and suite.kind is {kind}")
        if kind != "pairs" and self.data != DataConfig():
            raise ValueError(f"data is for suite=pairs, and suite.kind is {kind}; drop data=...")
        if kind not in reference_files.BENCHMARKS and self.results_dir not in (None, _RESULTS):
            raise ValueError(
                f"results_dir is for {', '.join(reference_files.BENCHMARKS)}, and suite.kind is "
                f"{kind}; out=FILE.json keeps a result"
            )
        return self

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default."""
        model = EvaluatedModelConfig(path="").model_dump(mode="json")
        return {
            "data": DataConfig().model_dump(mode="json"),
            "suite": SuiteConfig().model_dump(mode="json"),
            "model": {**model, "path": None},
        }


@dataclass(frozen=True)
class Evaluated:
    """What the command found and wrote.

    Attributes:
        name: of the model.
        result: on the set.
        contamination: what a trial's model has seen of the set; None for another model.
        written: the files.
    """

    name: str
    result: SetResult
    contamination: dict[str, Any] | None
    written: list[Path]


def evaluate(
    config: EvaluateConfig,
    advance: Callable[[int, int], None] | None = None,
    *,
    of_record: bool = False,
) -> Evaluated:
    """Score a set and write what is asked for.

    Args:
        config: which set and model.
        advance: called with (texts scored, texts to score).
        of_record: no data was asked for by name: of a model in a trial's folder, the pairs and
            the split are the trial's own.

    Raises:
        UserError: naming key, file or row.
    """
    check_out("out", config.out)
    check_out("picture", config.picture)
    paths = [config.model.path] if of_record and config.model.path else []
    data, note = chosen_data(config.suite, config.data, paths)
    of = evaluation_set(config.suite, data, config.part, note)
    found = None if config.model.path is None else model_of(config.model.path)
    files = reference_files.planned(
        config.results_dir, config.suite.kind, found, config.model.target, config.model.options
    )
    model = scorer(config.model, config.cache_dir, advance)

    from rmexp.evaluation.sets import evaluate_set
    from rmexp.trial.measured import contamination_of
    from rmexp.trial.record import write_json

    seen = None if found is None else contamination_of(found, of)
    result = evaluate_set(model, of)
    name = str(config.model.path or config.model.target)
    written = []
    if config.out is not None:
        part = {"part": config.part} if config.suite.kind == "pairs" else {}
        plain = {"model": name, **part, **result.to_plain(), "contamination": seen}
        write_json(Path(config.out), plain)
        written.append(Path(config.out))
    if files is not None:
        written += files.write(result)
    return Evaluated(name, result, seen, written)


def recorded_data(model: str) -> DataConfig | None:
    """The data of the trial that made a model; None for a model outside a trial's folder."""
    folder = Path(model)
    folder = folder.parent if folder.name == MODEL else folder
    if not (folder / FILE_NAME).is_file():
        return None
    return TrialRecord.read(folder).trial_config.data


def chosen_data(
    suite: SuiteConfig, data: DataConfig, models: Sequence[str]
) -> tuple[DataConfig, str]:
    """The data of the models' trials, and a note that says so; else the data as given.

    A model measured on another split than its trial's has been trained on some of the pairs.

    Args:
        suite: only ``pairs`` reads data.
        data: as given.
        models: folders whose trials' records may say which data.

    Raises:
        UserError: the trials read different data, or a record cannot be read.
    """
    known: dict[str, DataConfig] = {}
    if suite.kind == "pairs":
        known = {m: found for m in models if (found := recorded_data(m)) is not None}
    if not known:
        return data, ""
    (first, chosen), *others = known.items()
    for other, found in others:
        if found != chosen:
            raise UserError(
                f"{first} and {other} were trained on different data or splits; say which to "
                "measure on: data=... (as for rmexp train)"
            )
    return chosen, ", data and split of the trial's record"


def evaluation_set(
    suite: SuiteConfig, data: DataConfig, part: Any, note: str = ""
) -> EvaluationSet:
    """The rows that a config names; ``note`` is added to their name."""
    from rmexp.evaluation.sets import pairs_set
    from rmexp.trial import reading
    from rmexp.trial.labelled import part_of

    if suite.kind != "pairs":
        return reading.suite(suite)
    pairs = part_of(reading.read_pairs(data), data, part)
    judged = [pair for pair in pairs if pair.preference is not None]
    if not judged:
        raise UserError(f"data: no pair of part '{part}' has a human preference")
    return pairs_set(judged, f"{data.name or data.path or data.source}, part {part}{note}")


def scorer(
    config: EvaluatedModelConfig,
    cache_dir: str,
    advance: Callable[[int, int], None] | None = None,
) -> Scorer:
    """The model that a config names; ours tells ``advance`` how far it is."""
    from rmexp.trial import assembly

    if config.target is not None:
        return assembly.custom_scorer(config.target, config.options)
    assert config.path is not None

    from rmexp.reward.model import load_reward_model

    model = load_reward_model(
        model_of(config.path),
        template=config.template,
        max_length=config.max_length,
        precision=config.precision,
        device=config.device,
        cache_dir=Path(cache_dir) if cache_dir else None,
    )
    model.progress = advance
    return model


def model_of(name: str) -> str:
    """A trial's folder as that of its model; anything else as it is.

    Raises:
        UserError: the trial keeps no model.
    """
    folder = Path(name)
    if not (folder / FILE_NAME).is_file():
        return name
    if not (folder / MODEL).is_dir():
        record = TrialRecord.read(folder)
        identity = record.identity
        if record.state == "pruned":
            raise UserError(
                f"{name}: the trial was pruned, so no model of it was trained to the end; "
                "rmexp train with its config trains one"
            )
        again = "rmexp train with its config makes it again"
        if identity.study is not None:
            study, number = identity.study, identity.number
            again = f"rmexp rerun {study} --trial {number} makes it again, for {study}:{number}"
        raise UserError(
            f"{name}: no trained model is kept here (sweep.keep=all keeps all); {again}"
        )
    return str(folder / MODEL)


def check_out(key: str, out: str | None) -> None:
    """UserError where a file cannot be written for want of its folder."""
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UserError(f"{key}: no folder {Path(out).absolute().parent} to write into")
