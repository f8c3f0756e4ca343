"""The command evaluate: any reward model on any set of judged responses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rmexp.errors import UserError
from rmexp.trial.schema import DataConfig, Section, SuiteConfig

if TYPE_CHECKING:
    from rmexp.evaluation.scorer import Scorer
    from rmexp.evaluation.sets import EvaluationSet, SetResult

REWARDBENCH = ("rewardbench", "rewardbench2", "prior_sets")


class EvaluatedModelConfig(Section):
    """Which model, and how it is run."""

    path: str | None = Field(None, description="folder of a trained model, or a hub name")
    template: Literal["auto", "chat", "plain", "pair"] | None = Field(
        None, description="how prompt and response become text; null: as stored, else auto"
    )
    max_length: int | None = Field(None, ge=8, description="tokens; null: as stored, else 2048")
    precision: Literal["32", "bf16"] = "32"
    device: str = Field("cpu", description="cpu, cuda, cuda:1, mps")
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
    results_dir: str | None = Field(
        None, description="folder for RewardBench's own result and per-row files"
    )
    cache_dir: str = Field("", description="converted models")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default."""
        model = EvaluatedModelConfig(path="").model_dump(mode="json")
        return {
            "data": DataConfig().model_dump(mode="json"),
            "suite": SuiteConfig().model_dump(mode="json"),
            "model": {**model, "path": None},
        }


def evaluate(
    config: EvaluateConfig, advance: Callable[[int, int], None] | None = None
) -> tuple[SetResult, list[Path]]:
    """Score a set and write what is asked for.

    Args:
        config: which set and model.
        advance: called with (texts scored, texts to score).

    Returns:
        The result, and the files written.

    Raises:
        UserError: naming key, file or row.
    """
    check_out("out", config.out)
    of = evaluation_set(config.suite, config.data, config.part)
    model = scorer(config.model, config.cache_dir, advance)

    from rmexp.evaluation.sets import evaluate_set
    from rmexp.trial.record import write_json

    result = evaluate_set(model, of)
    name = str(config.model.path or config.model.target)
    written = []
    if config.out is not None:
        part = {"part": config.part} if config.suite.kind == "pairs" else {}
        write_json(Path(config.out), {"model": name, **part, **result.to_plain()})
        written.append(Path(config.out))
    if config.results_dir is not None and config.suite.kind in REWARDBENCH:
        written += _reference_files(result, Path(config.results_dir), name, config.model)
    return result, written


def evaluation_set(suite: SuiteConfig, data: DataConfig, part: Any) -> EvaluationSet:
    """The rows that a config names."""
    from rmexp.evaluation.sets import pairs_set
    from rmexp.trial import reading
    from rmexp.trial.labelled import part_of

    if suite.kind != "pairs":
        return reading.suite(suite)
    pairs = part_of(reading.read_pairs(data), data, part)
    judged = [pair for pair in pairs if pair.preference is not None]
    if not judged:
        raise UserError(f"data: no pair of part '{part}' has a human preference")
    return pairs_set(judged, f"{data.name or data.path or data.source}, part {part}")


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
        config.path,
        template=config.template,
        max_length=config.max_length,
        precision=config.precision,
        device=config.device,
        cache_dir=Path(cache_dir) if cache_dir else None,
    )
    model.progress = advance
    return model


def check_out(key: str, out: str | None) -> None:
    """UserError where a file cannot be written for want of its folder."""
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UserError(f"{key}: no folder {Path(out).absolute().parent} to write into")


def _reference_files(
    result: SetResult, directory: Path, name: str, model: EvaluatedModelConfig
) -> list[Path]:
    from rmexp.evaluation.preferences import PreferenceEvaluation
    from rmexp.evaluation.result_files import write_result_files

    assert not isinstance(result.detail, PreferenceEvaluation)
    kind = "Custom Classifier" if model.target else "Seq. Classifier"
    template = model.template or "tokenizer"
    return list(
        write_result_files(
            result.detail, directory, model=name, model_type=kind, chat_template=template
        )
    )
