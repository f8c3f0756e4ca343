"""Sequence classifiers small enough to make anew, with weights large enough to show a fault."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.options import PeftOptions

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "num_labels": 1,
}


class Pad:
    """All of a tokenizer that rows need."""

    pad_token_id = 0


def classifier_of(config: Any, causal: bool = True) -> Classifier:
    """A drawn model of a config; a wrong mask or a missing token must show in its scores."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return Classifier(model, Pad(), causal, PeftOptions())
