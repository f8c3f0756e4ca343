"""The command compare: models or trials on one set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from rmexp.trial.evaluate import (
    EvaluatedModelConfig,
    check_out,
    chosen_data,
    evaluation_set,
    model_of,
    scorer,
)
from rmexp.trial.schema import DataConfig, SuiteConfig
from rmexp.trial.section import Section

if TYPE_CHECKING:
    from rmexp.evaluation.compare import Comparison


class CompareConfig(Section):
    """Which models, on what."""

    models: list[str] = Field(description="folders, hub names, trial folders or module:Class")
    names: list[str] = Field(description="what to call each")
    suite: SuiteConfig = SuiteConfig()
    data: DataConfig = DataConfig()
    part: Literal["train", "validation", "test", "all"] = Field(
        "test", description="which part of the split (suite=pairs)"
    )
    device: str = Field(
        "auto", description="cpu, mps, cuda:1; cuda: all GPUs; auto: those, else the CPU"
    )
    out: str | None = Field(None, description="JSON file for the whole comparison")
    picture: str | None = Field(None, description="HTML file for the picture")
    output_dir: str = Field("outputs", description="where studies lie")
    cache_dir: str = Field("", description="converted models")

    @field_validator("names", mode="after")
    @classmethod
    def _two_or_more(cls, value: list[str]) -> list[str]:
        if len(value) < 2:
            raise ValueError("compare needs two models or more: rmexp compare A B")
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"compare: '{name}' stands twice")
        return value

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default."""
        return {
            "data": DataConfig().model_dump(mode="json"),
            "suite": SuiteConfig().model_dump(mode="json"),
            "device": "auto",
        }


def compare_models(
    config: CompareConfig,
    advance: Callable[[str, int, int], None] | None = None,
    *,
    of_record: bool = False,
) -> Comparison:
    """Score the set with every model.

    Args:
        config: which set and models.
        advance: called with (model's name, texts scored, texts to score).
        of_record: no data was asked for by name: of models in trials' folders, the pairs and the
            split are the trials' own.

    Raises:
        UserError: naming model, key, file or row.
    """
    check_out("out", config.out)
    check_out("picture", config.picture)
    data, note = chosen_data(config.suite, config.data, config.models if of_record else ())
    of = evaluation_set(config.suite, data, config.part, note)
    models = {
        name: _model(model, config.device)
        for name, model in zip(config.names, config.models, strict=True)
    }

    from rmexp.evaluation.compare import compare
    from rmexp.trial.record import write_json

    scorers = {
        name: scorer(model, config.cache_dir, advance and partial(advance, name))
        for name, model in models.items()
    }
    found = compare(scorers, of)
    if config.out is not None:
        write_json(Path(config.out), found.to_plain())
    return found


def _model(name: str, device: str) -> EvaluatedModelConfig:
    if ":" in name and not Path(name).exists():
        return EvaluatedModelConfig(target=name)
    return EvaluatedModelConfig(path=model_of(name), device=device)
