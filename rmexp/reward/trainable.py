"""A model made ready to be trained, and the form of its texts."""

from __future__ import annotations

from pathlib import Path

import torch

from rmexp.backbone.acceleration import checkpoint_layers, compile_layers, pack_rows
from rmexp.backbone.classifier import Classifier, head_names
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import AttentionKind, PeftOptions, Precision
from rmexp.backbone.text import TemplateName, TextTemplate
from rmexp.errors import UserError
from rmexp.reward.options import LossOptions


def trainable_classifier(
    path: Path | str,
    *,
    precision: Precision,
    seed: int,
    peft: PeftOptions,
    loss: LossOptions,
    attention: AttentionKind,
    gradient_checkpointing: bool,
    compile_model: bool,
) -> tuple[Classifier, list[str]]:
    """Load a model in training mode; options as of ``train_reward_model``.

    Returns:
        It, and the names of the weights that are left out of training.

    Raises:
        UserError: it cannot be loaded, or an option does not fit it.
    """
    classifier = load_sequence_classifier(path, precision=precision, seed=seed, peft=peft)
    untrained = _prepare(classifier, loss)
    if attention == "flex":
        pack_rows(classifier)
    if gradient_checkpointing:
        checkpoint_layers(classifier)
    if compile_model:
        compile_layers(classifier)
    return classifier, untrained


def text_template(classifier: Classifier, name: TemplateName, max_length: int) -> TextTemplate:
    """How texts become tokens for a model.

    Raises:
        UserError: the model has positions for less than ``max_length`` tokens.
    """
    limit = classifier.longest
    if limit is not None and max_length > limit:
        raise UserError(f"max_length={max_length}: this model has positions for {limit} tokens")
    return TextTemplate(
        classifier.tokenizer, name=name, max_length=max_length, causal=classifier.causal
    )


def _prepare(classifier: Classifier, loss: LossOptions) -> list[str]:
    """Training mode (only adapters have dropout then), and no noise in the score's bias.

    Without centering the bias cancels in every pair: its gradient is rounding noise, which AdamW
    would scale up to whole steps.

    Returns:
        Names of the weights that are so left out.
    """
    classifier.model.train()
    if loss.center_coefficient:
        return []
    heads = [getattr(classifier.inner, name) for name in head_names(classifier.inner)]
    linear = [m for head in heads for m in head.modules() if isinstance(m, torch.nn.Linear)]
    left_out = [m.bias for m in linear if m.out_features == 1 and m.bias is not None]
    for bias in left_out:
        bias.requires_grad_(False)
    ids = {id(bias) for bias in left_out}
    return [name for name, p in classifier.model.named_parameters() if id(p) in ids]
