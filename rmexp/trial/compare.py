"""The command compare: models or trials on one set."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
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
from rmexp.trial.evaluation_schema import SuiteConfig
from rmexp.trial.schema import DataConfig
from rmexp.trial.section import Section

if TYPE_CHECKING:
    from rmexp.evaluation.compare import Comparison
    from rmexp.evaluation.scorer import Scorer
    from rmexp.evaluation.sets import EvaluationSet, SetResult


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
    template: Literal["auto", "chat", "plain", "pair"] | None = Field(
        None, description="how every model's texts are made; null: as each stored it, else auto"
    )
    max_length: int | None = Field(
        None, ge=8, description="tokens, of every model; null: as each stored it, else 2048"
    )
    precision: Literal["32", "bf16"] = Field("32", description="of every model")
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
            "template": None,
            "max_length": None,
            "precision": "32",
        }


def compare_models(
    config: CompareConfig,
    advance: Callable[[str, int, int], None] | None = None,
    *,
    of_record: bool = False,
) -> Comparison:
    """Score the set with every model, one after the other: none waits in memory for its turn.

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
        name: _model(model, config) for name, model in zip(config.names, config.models, strict=True)
    }

    from rmexp.evaluation.compare import compare_results
    from rmexp.trial.measured import contamination_of
    from rmexp.trial.record import write_json

    results: dict[str, SetResult] = {}
    read_as: dict[str, dict[str, Any]] = {}
    seen: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        tell = advance and partial(advance, name)
        results[name], how = _scored(model, of, config.cache_dir, tell)
        # A network holds itself in circles: else the next would be loaded beside this one.
        gc.collect()
        if how:
            read_as[name] = how
        if model.path is not None and (overlap := contamination_of(model.path, of)) is not None:
            seen[name] = overlap
    found = replace(compare_results(results, of), read_as=read_as, contamination=seen)
    if config.out is not None:
        write_json(Path(config.out), found.to_plain())
    return found


def _model(name: str, config: CompareConfig) -> EvaluatedModelConfig:
    """A model as named, checked: the last is not missed once the others have been scored."""
    from rmexp.backbone.described import model_description
    from rmexp.trial.assembly import custom_class

    if ":" in name and not Path(name).exists():
        custom_class("compare", name)
        return EvaluatedModelConfig(target=name)
    path = model_of(name)
    model_description(path, "compare")
    return EvaluatedModelConfig(
        path=path,
        device=config.device,
        template=config.template,
        max_length=config.max_length,
        precision=config.precision,
    )


def _scored(
    config: EvaluatedModelConfig,
    of: EvaluationSet,
    cache_dir: str,
    advance: Callable[[int, int], None] | None,
) -> tuple[SetResult, dict[str, Any]]:
    """A model's result, and how it read the texts where that is known; the model is let go."""
    from rmexp.evaluation.sets import evaluate_set

    model = scorer(config, cache_dir, advance)
    return evaluate_set(model, of), {} if config.path is None else _read_as(model)


def _read_as(model: Scorer) -> dict[str, Any]:
    from rmexp.reward.model import RewardModel

    assert isinstance(model, RewardModel)
    form = model.template
    precision = "bf16" if model.classifier.autocast else "32"
    return {"template": form.name, "max_length": form.max_length, "precision": precision}
