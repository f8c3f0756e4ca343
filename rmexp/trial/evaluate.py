"""The command evaluate: a trained model against human preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rmexp.errors import UserError
from rmexp.trial.schema import DataConfig, Section


class EvaluatedModelConfig(Section):
    """Which model."""

    path: str = Field(description="folder of a trained model, or a hub name")


class EvaluateConfig(Section):
    """What is scored, on which pairs."""

    model: EvaluatedModelConfig
    data: DataConfig = DataConfig()
    part: Literal["train", "validation", "test", "all"] = Field(
        "test", description="which part of the split"
    )
    out: str | None = Field(None, description="JSON file for the whole result")
    cache_dir: str = Field("", description="converted models")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default."""
        return {"data": DataConfig().model_dump(mode="json"), "model": {}}


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score the chosen pairs and return the evaluation as plain data."""
    from rmexp.trial import assembly
    from rmexp.trial.labelled import part_of

    pairs = part_of(assembly.read_pairs(config.data), config.data, config.part)
    judged = [pair for pair in pairs if pair.preference is not None]
    if not judged:
        raise UserError(f"data: no pair of part '{config.part}' has a human preference")
    _check_out(config.out)

    from rmexp.evaluation.preferences import evaluate_preferences
    from rmexp.reward.model import load_reward_model
    from rmexp.trial.record import write_json

    evaluation = evaluate_preferences(load_reward_model(config.model.path), judged)
    plain = {
        "model": config.model.path,
        "part": config.part,
        "metrics": evaluation.metrics(),
        **evaluation.to_plain(),
    }
    if config.out is not None:
        write_json(Path(config.out), plain)
    return plain


def _check_out(out: str | None) -> None:
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UserError(f"out: no folder {Path(out).absolute().parent} to write into")
