"""The schema of what is measured: suites, the objective, guards."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from rmexp.trial.section import Section

SuiteKind = Literal[
    "pairs",
    "rewardbench",
    "rewardbench2",
    "prior_sets",
    "llmbar",
    "humanevalpack",
    "hh",
    "pku",
    "file",
]
# What the names of other metrics begin with.
_TAKEN = {
    "base",
    "category",
    "guards",
    "kind",
    "labels",
    "ratings",
    "test",
    "train",
    "validation",
}


class SuiteConfig(Section):
    """A set of judged responses to score."""

    kind: SuiteKind = Field(
        "pairs", description="pairs: a part of `data`; file: your own judged pairs"
    )
    path: str | None = Field(
        None, description="local file or folder; null: the hub, where the set is there"
    )
    prior: str | None = Field(
        None, description="kind=rewardbench: the prior sets too, from a file or 'hub'"
    )
    name: str | None = Field(None, description="kind=file: what to call a figure on it")
    licence: str | None = Field(None, description="kind=file: of the data")
    styles: list[str] = Field(
        default_factory=list,
        description="kind=file, rows of lists: the style of each place, from plain to elaborate",
    )
    rows: int | None = Field(
        None, ge=1, description="score a random sample of this many rows, each subset in proportion"
    )
    seed: int = Field(0, ge=0, description="of the sample")

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> SuiteConfig:
        if self.kind == "file":
            for key in ("path", "name", "licence"):
                if not getattr(self, key):
                    raise ValueError(f"suite.kind=file needs suite.{key}")
        elif self.name or self.licence or self.styles:
            raise ValueError("suite.name, suite.licence and suite.styles are for suite.kind=file")
        if self.kind == "pairs" and (self.path or self.rows):
            raise ValueError("suite.path and suite.rows are not for suite.kind=pairs; use data=...")
        if self.prior and self.kind != "rewardbench":
            raise ValueError("suite.prior goes with suite.kind=rewardbench")
        if self.seed and self.rows is None:
            raise ValueError("suite.seed is of a sample: give suite.rows, or drop it")
        return self


def _misleads(name: str, kind: str) -> bool:
    """Whether a suite's name is another kind's, or RewardBench's where the set is not."""
    from rmexp.evaluation.suites import sounds_like_rewardbench

    if name in get_args(SuiteKind):
        return name != kind
    return sounds_like_rewardbench(name) and kind not in (
        "rewardbench",
        "rewardbench2",
        "prior_sets",
    )


class EvaluationConfig(Section):
    """What a trial is measured on, and the number it returns.

    Objective and guards know the metrics of the validation pairs by their names, those of a suite
    as ``SUITE/NAME`` (and as ``NAME`` where no other has it), and the same of the model before
    training as ``base.NAME``.
    """

    objective: str | list[str] = Field(
        "accuracy", description="a metric, or a formula over metrics; a list of several"
    )
    guards: list[str] = Field(
        default_factory=list,
        description="what must hold, such as 'accuracy >= base.accuracy - 0.01'; by how much it "
        "does not is recorded as guards/...",
    )
    suites: dict[str, SuiteConfig] = Field(
        default_factory=dict, description="sets scored at the end of each trial, by name"
    )
    every_epoch: bool = Field(
        True,
        description="measure after each epoch, for pruning, curves and the drift of scores; the "
        "suites only where the objective looks at them",
    )
    test: bool = Field(
        False, description="also measure on the test pairs; a search must not, a single run may"
    )

    @field_validator("objective", mode="after")
    @classmethod
    def _objectives_are_named(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and len(set(value)) < len(value)):
            raise ValueError("name at least one objective, each once")
        return value

    @property
    def objectives(self) -> list[str]:
        """The objectives as a list; one for a single objective."""
        return [self.objective] if isinstance(self.objective, str) else self.objective

    @field_validator("suites", mode="after")
    @classmethod
    def _suites_are_sets_of_their_own(cls, value: dict[str, SuiteConfig]) -> dict[str, SuiteConfig]:
        for name, suite in value.items():
            if suite.kind == "pairs":
                raise ValueError(f"evaluation.suites.{name}: needs a kind other than pairs")
            if name in _TAKEN:
                raise ValueError(f"evaluation.suites: '{name}' names other metrics; use another")
            if _misleads(name, suite.kind):
                raise ValueError(
                    f"evaluation.suites: '{name}' is no name for a set of kind {suite.kind}, whose "
                    "figures would go by it; use another"
                )
        return value
