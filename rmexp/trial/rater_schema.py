"""The schema of the config group ``rater``: one section a kind of rater."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rmexp.trial.section import Section


class ExemplarConfig(Section):
    """Similarity to each rule's examples in embedding space; needs no network."""

    kind: Literal["exemplar"] = "exemplar"
    encoder: str = Field("minilm", description="sentence encoder: a model name, folder or hub name")


class ProbeConfig(Section):
    """Logistic heads on frozen embeddings, from `rmexp rater fit`."""

    kind: Literal["probe"]
    path: str = Field(description="folder written by `rmexp rater fit`")
    encoder: str = Field("minilm", description="the sentence encoder it was fitted on")


class CausalLMConfig(Section):
    """P(Yes), P(No), P(Irrelevant) of a local instruction model."""

    kind: Literal["causal_lm"]
    model: str = Field(description="a model name, folder or hub name")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass")
    max_length: int = Field(2048, ge=64, description="tokens of instructions, prompt and response")
    encoder: str = Field(
        "minilm", description="of a Rule Adapter; the model itself gives P(Irrelevant)"
    )


class PriceConfig(Section):
    """Dollars for a million tokens."""

    input: float = Field(ge=0, description="of what is sent")
    output: float = Field(ge=0, description="of what is answered")


class OpenAIConfig(Section):
    """Any OpenAI-compatible endpoint; the key comes from the environment only."""

    kind: Literal["openai"]
    model: str = Field(description="model name at the endpoint")
    base_url: str | None = Field(
        None, description="endpoint; None for OPENAI_BASE_URL, else OpenAI's own"
    )
    concurrency: int = Field(16, ge=1, description="requests in flight")
    timeout: float = Field(60.0, gt=0, description="seconds for one request")
    attempts: int = Field(8, ge=1, description="requests for one question before it is given up")
    probabilities: bool = Field(
        True, description="read log probabilities; false for endpoints that refuse to give them"
    )
    rules_per_request: int = Field(1, ge=1, description="above 1 is cheaper, without probabilities")
    max_cost: float | None = Field(None, gt=0, description="stop before spending more (dollars)")
    price: PriceConfig | None = Field(None, description="what max_cost counts with")
    encoder: str = Field(
        "minilm", description="of a Rule Adapter; the model itself gives P(Irrelevant)"
    )


class RecordedConfig(Section):
    """Ratings read from a file."""

    kind: Literal["recorded"]
    path: str = Field(description="Parquet or JSONL file of ratings")
    encoder: str = Field("minilm", description="sentence encoder for relevance")


class CustomRaterConfig(Section):
    """Your own rater class."""

    kind: Literal["custom"]
    target: str = Field(description="package.module:Class with a `rate` method and `fingerprint`")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
    encoder: str = Field("minilm", description="sentence encoder for relevance")


RaterConfig = Annotated[
    ExemplarConfig
    | ProbeConfig
    | CausalLMConfig
    | OpenAIConfig
    | RecordedConfig
    | CustomRaterConfig,
    Field(discriminator="kind"),
]
