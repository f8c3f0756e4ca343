"""The schema of a trial's config: every key, its type, its bounds, and which keys contradict.

Hydra composes YAML; this module says whether the result can run. It imports nothing heavy, so
that mistakes are told at once. The descriptions here are the reference in the documentation.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rmexp.errors import UserError
from rmexp.trial.evaluation_schema import EvaluationConfig
from rmexp.trial.mistakes import explain
from rmexp.trial.rater_schema import ExemplarConfig, RaterConfig
from rmexp.trial.section import Section

# The name that conf/rules/file.yaml gives.
OWN_RULES = "own"
# These change where a trial keeps or tells things, not what it computes.
FREE_KEYS = ("cache_dir", "tracker", "rating", "trainer.threads", "trainer.frozen_cache_gb")
Model = TypeVar("Model", bound=BaseModel)


class SplitConfig(Section):
    """Shares of the pairs, split by prompt; they sum to 1."""

    train: float = Field(0.5, ge=0, le=1, description="share to label and train on")
    validation: float = Field(0.15, ge=0, le=1, description="share that steers the search")
    test: float = Field(0.35, ge=0, le=1, description="share that the search never sees")
    seed: int = Field(0, ge=0, description="another seed, another split")

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must sum to 1, got {total:g}")
        return self


class DataConfig(Section):
    """Where the preference pairs come from."""

    source: Literal["starter", "files", "hub"] = Field(
        "starter", description="the starter set, local files, or a Hugging Face data set"
    )
    path: str | None = Field(
        None, description="file or folder; with source=hub a local copy that is read instead"
    )
    name: str | None = Field(None, description="data set name (source=hub)")
    config_name: str | None = Field(None, description="configuration of the hub data set")
    data_dir: str | None = Field(None, description="folder inside the hub data set")
    hub_split: str = Field("train", description="split of the hub data set to read")
    columns: dict[str, str] = Field(
        default_factory=dict, description="our field names to the source's column names"
    )
    on_invalid: Literal["error", "drop"] = Field(
        "error", description="a row that cannot be used: stop, or drop and count it"
    )
    limit: int | None = Field(None, ge=1, description="read at most this many pairs")
    seed: int = Field(0, ge=0, description="of the coin that places preferred responses")
    split: SplitConfig = SplitConfig()
    train_limit: int | None = Field(None, ge=1, description="train on at most this many pairs")

    @model_validator(mode="after")
    def _source_has_its_keys(self) -> DataConfig:
        if self.source == "files" and not self.path:
            raise ValueError(
                "data.path: missing; data=jsonl and data=parquet need data.path=FILE_OR_FOLDER"
            )
        if self.source == "hub" and not (self.name or self.path):
            raise ValueError("data.source=hub needs data.name, or data.path to a local copy")
        if self.source == "starter" and (self.path or self.name):
            raise ValueError(
                "data.path and data.name contradict data.source=starter; use data=jsonl or data=hub"
            )
        return self


class RulesConfig(Section):
    """Which rules."""

    name: str = Field("core20", description="a set of the pool, or a name for your own")
    path: str | None = Field(None, description="a YAML file of your own rules")
    ids: list[str] | None = Field(None, description="keep these rules only, in this order")

    @model_validator(mode="after")
    def _own_rules_have_a_file(self) -> RulesConfig:
        if self.name == OWN_RULES and self.path is None:
            raise ValueError("rules.path: rules=file needs it; give rules.path=FILE.yaml")
        return self


class RatingConfig(Section):
    """How a trial gets its ratings."""

    on_missing: Literal["rate", "error"] = Field(
        "rate", description="rate what the store lacks, or stop and say how many are missing"
    )


class SelectionConfig(Section):
    """How the critical rules of a pair are chosen, and ties of the label settled."""

    strategy: Literal["adaptive", "all", "fixed", "random", "adapter"] = Field(
        "adaptive", description="adaptive is the method; the others are its baselines"
    )
    rules: list[str] | None = Field(None, description="rule ids (strategy=fixed)")
    seed: int = Field(0, ge=0, description="of the draw (strategy=random)")
    path: str | None = Field(None, description="a trained Rule Adapter (strategy=adapter)")
    tie: Literal["drop", "a", "b", "half"] = Field(
        "drop", description="what becomes of a pair whose signed sums are equal"
    )

    @model_validator(mode="after")
    def _strategy_has_its_keys(self) -> SelectionConfig:
        if (self.strategy == "fixed") != (self.rules is not None):
            raise ValueError("selection.rules and selection.strategy=fixed go together")
        if (self.strategy == "adapter") != (self.path is not None):
            raise ValueError("selection.path and selection.strategy=adapter go together")
        return self


class LabellingConfig(Section):
    """From preference pairs to labels: what trials, `rmexp label` and the audit share."""

    gamma: float = Field(1.0, ge=0, description="weight of relevance; inf is relevance alone")
    r: int = Field(5, ge=1, description="critical rules per pair")
    data: DataConfig = DataConfig()
    rules: RulesConfig = RulesConfig()
    rater: RaterConfig = ExemplarConfig()
    rating: RatingConfig = RatingConfig()
    selection: SelectionConfig = SelectionConfig()
    cache_dir: str = Field(description="ratings, tokens and converted models, shared by trials")


class ModelConfig(Section):
    """The backbone of the reward model."""

    name: str = Field("minilm", description="minilm, smollm2_135m, tiny, a folder or a hub name")
    template: Literal["auto", "chat", "plain", "pair"] = Field(
        "auto", description="how prompt and response become text"
    )
    max_length: int = Field(512, ge=8, description="tokens; longer prompts lose their beginning")


class PeftConfig(Section):
    """Which weights are trained. The score head always is."""

    kind: Literal["full", "lora", "qlora", "head_only", "last_k"] = Field(
        "full", description="qlora: LoRA on a base in four bits, on CUDA GPUs (not run: no GPU)"
    )
    rank: int = Field(8, ge=1, description="rank of LoRA")
    alpha: float = Field(16.0, gt=0, description="scale of LoRA")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of LoRA")
    last_k: int = Field(2, ge=1, description="layers trained from the top (kind=last_k)")


class LossConfig(Section):
    """Bradley-Terry, and what the label's margin does in it."""

    margin_scale: float = Field(
        0.0, ge=0, description="the label's |margin| times this is the Bradley-Terry margin"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of flipped labels assumed")
    center_coefficient: float = Field(0.0, ge=0, description="weight of mean((r_c + r_r)^2)")
    weight_by_margin: bool = Field(
        False, description="weigh pairs by |margin|; needs selection.tie=drop, as ties have none"
    )


class TrainerConfig(Section):
    """The training loop and the hardware it runs on."""

    accelerator: Literal["cpu", "gpu", "mps"] = "cpu"
    devices: int = Field(1, ge=1, description="processes on a machine, one a device")
    nodes: int = Field(1, ge=1, description="machines; above 1 under torchrun only")
    strategy: Literal["auto", "ddp", "fsdp", "fsdp2"] = Field(
        "auto",
        description="auto: one device; ddp: a whole model on each; fsdp or fsdp2: one model "
        "sharded over all by PyTorch's fully_shard",
    )
    precision: Literal["32", "bf16"] = "32"
    batch_pairs: int = Field(16, ge=1, description="pairs in an optimiser step, over all devices")
    micro_batch_pairs: int | None = Field(
        None,
        ge=1,
        description="pairs that a device runs before it goes back, which bounds the memory of a "
        "step of any size; None: all at once. The step is the same but for rounding",
    )
    token_budget: int = Field(
        512,
        ge=1,
        description="tokens in one forward pass, a longer text alone; on a CPU 512 at most; for "
        "speed, not for memory: all passes of a micro-batch are kept until its backward pass",
    )
    attention: Literal["sdpa", "flex"] = Field(
        "sdpa",
        description="sdpa: rows of like length, a mask each; flex: pairs packed into rows of "
        "token_budget tokens for FlexAttention (causal models; compiled on a GPU, slow on a CPU)",
    )
    warmup_steps: int = Field(
        10,
        ge=0,
        description="steps of linear warm-up; a run of no more steps than these stays below "
        "learning_rate, and says so",
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    threads: int | None = Field(None, ge=1, description="CPU threads; None shares the cores")
    deterministic: bool = Field(True, description="the same config gives the same bits")
    checkpoint_steps: int = Field(
        0,
        ge=0,
        description="optimiser steps between two checkpoints to go on from, 0 for none; "
        "fewer than the steps of a run",
    )
    gradient_checkpointing: bool = Field(
        False, description="run layers again in the backward pass: less memory, more time"
    )
    compile: bool = Field(False, description="torch.compile the layers; a slow start")
    sharded_checkpoints: bool = Field(
        False, description="each rank writes its own part of a checkpoint (strategy=fsdp)"
    )
    frozen_cache_gb: float = Field(
        4.0,
        ge=0,
        allow_inf_nan=False,
        description="disk for what frozen layers give (peft=head_only, last_k), shared by trials: "
        "the least recently used goes first; 0: run them each time",
    )

    @property
    def ranks(self) -> int:
        """Processes on all machines."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def _strategy_fits(self) -> TrainerConfig:
        if self.ranks > 1 and self.strategy == "auto":
            raise ValueError("trainer.devices or nodes above 1 need trainer.strategy=ddp or fsdp")
        if self.sharded_checkpoints and self.strategy not in ("fsdp", "fsdp2"):
            raise ValueError("trainer.sharded_checkpoints needs trainer.strategy=fsdp")
        return self


class TrackerConfig(Section):
    """Where a trial logs."""

    kind: Literal["wandb", "none"] = "wandb"
    project: str = "rmexp"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = Field(
        "auto", description="auto: online where a login is found, else offline"
    )


class TrialConfig(LabellingConfig):
    """One trial: one pass from preference pairs to the objective."""

    learning_rate: float = Field(
        3e-4, gt=0, description="learning rate of AdamW at its peak, behind trainer.warmup_steps"
    )
    epochs: int = Field(2, ge=1, description="passes over the training pairs")
    seed: int = Field(0, ge=0, description="of the score head, the order of pairs and dropout")
    seeds: list[int] = Field(
        default_factory=list,
        description="train once with each of them, in place of `seed`; objective and metrics are "
        "the means",
    )
    model: ModelConfig = ModelConfig()
    peft: PeftConfig = PeftConfig()
    loss: LossConfig = LossConfig()
    trainer: TrainerConfig = TrainerConfig()
    tracker: TrackerConfig = TrackerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("learning_rate", mode="after")
    @classmethod
    def _learning_rate_is_finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(f"must be finite, got {value}")
        return value

    @field_validator("seeds", mode="after")
    @classmethod
    def _seeds_are_different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value) or any(seed < 0 for seed in value):
            raise ValueError(f"must be different integers, 0 or more, got {value}")
        return value

    @model_validator(mode="after")
    def _one_of_seed_and_seeds(self) -> TrialConfig:
        if self.seeds and self.seed != 0:
            raise ValueError(f"seed={self.seed}: has no effect beside seeds={self.seeds}")
        return self

    @model_validator(mode="after")
    def _qlora_has_gpus(self) -> TrialConfig:
        if self.peft.kind == "qlora" and (
            self.trainer.accelerator != "gpu" or self.trainer.strategy not in ("auto", "ddp")
        ):
            raise ValueError(
                "peft.kind=qlora needs trainer.accelerator=gpu and trainer.strategy=auto or ddp"
            )
        return self

    @model_validator(mode="after")
    def _ties_weigh_something(self) -> TrialConfig:
        tie = self.selection.tie
        if tie != "drop" and self.loss.weight_by_margin:
            raise ValueError(
                f"selection.tie={tie} contradicts loss.weight_by_margin=true: a tie has the "
                "margin 0, so it would be kept without a weight; use selection.tie=drop, or equal "
                "weights"
            )
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Each seed that the trial trains with."""
        return tuple(self.seeds) or (self.seed,)

    def with_seed(self, seed: int, **update: Any) -> TrialConfig:
        """The config with that seed alone, and with other keys replaced."""
        return self.model_copy(update={"seed": seed, "seeds": [], **update})

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON data, from which :func:`trial_config` reads an equal config."""
        return self.model_dump(mode="json")


def trial_config(plain: dict[str, Any]) -> TrialConfig:
    """Check plain data and make it a config.

    Raises:
        UserError: one line that names each wrong key.
    """
    return checked(TrialConfig, plain)


def checked(model: type[Model], plain: dict[str, Any], prefix: str = "") -> Model:
    """Validate plain data against a model, with errors as one line that names the keys."""
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        raise UserError("; ".join(explain(e, model, prefix) for e in error.errors())) from None
