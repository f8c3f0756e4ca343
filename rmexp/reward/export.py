"""Export: what training left becomes one folder for plain transformers or peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.sources import resolve_model
from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
from rmexp.reward.checkpoint import checkpoint_weights, is_checkpoint
from rmexp.reward.checkpoint_files import MADE_OF
from rmexp.reward.model import CARD, HOW_IT_WAS_MADE, RewardModel, load_reward_model


def export_reward_model(
    source: Path | str, target: Path, *, merge: bool = False, cache_dir: Path | None = None
) -> Path:
    """Write a reward model as one folder of safetensors, tokenizer, settings and model card.

    Args:
        source: a folder that training saved, a hub name, or a checkpoint of a run that has not
            ended: one file, or a folder of several ranks' parts, which are put together.
        target: a folder that does not exist yet.
        merge: add adapters to the weights they adapt, so that plain transformers loads the
            folder; else an adapter stays an adapter, for peft. Weights are written in float32.
        cache_dir: where named base models are kept.

    Raises:
        UserError: the source cannot be loaded, or the target is taken.
    """
    if target.exists():
        raise UserError(f"{target} exists already: give a new folder")
    if not target.absolute().parent.is_dir():
        raise UserError(f"out: no folder {target.absolute().parent} to write into")
    if is_checkpoint(Path(source)):
        model = checkpoint_model(Path(source), cache_dir=cache_dir)
    else:
        model = load_reward_model(source, cache_dir=cache_dir)
    classifier = model.classifier
    if merge and classifier.peft.adapts:
        merged = classifier.model.merge_and_unload()
        classifier = Classifier(merged, classifier.tokenizer, classifier.causal, PeftOptions())
    saved = RewardModel(classifier, model.template, model.base).save(target)
    card = Path(source) / CARD
    if card.is_file():
        _, heading, rest = card.read_text(encoding="utf-8").partition(f"\n{HOW_IT_WAS_MADE}\n")
        with (saved / CARD).open("a", encoding="utf-8") as stream:
            stream.write(heading + rest)
    return saved


def checkpoint_model(path: Path, *, cache_dir: Path | None = None) -> RewardModel:
    """The model of a checkpoint, in float32 on the CPU of this one process.

    Args:
        path: the checkpoint; what it was made of lies beside it.
        cache_dir: where named base models are kept.

    Raises:
        UserError: it cannot be read, or lacks a weight that its run trains.
    """
    beside = path.parent / MADE_OF
    try:
        made_of: dict[str, Any] = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{beside} tells what the checkpoint is of: cannot read it") from error
    options = dict(made_of["peft"])
    if options["kind"] == "qlora":
        options["kind"] = "lora"  # the same adapters, on the base as it is
    if not isinstance(options["targets"], str):
        options["targets"] = tuple(options["targets"])
    cache = cache_dir or Path.home() / ".cache" / "rmexp"
    classifier = load_sequence_classifier(
        resolve_model(made_of["base"], cache), seed=made_of["seed"], peft=PeftOptions(**options)
    )
    weights = checkpoint_weights(path)
    with torch.no_grad():
        for name, parameter in classifier.model.named_parameters():
            if f"model.{name}" in weights:
                parameter.copy_(weights[f"model.{name}"])
            # A bias that cancels in every pair is not trained: see _prepare in trainable.py.
            elif parameter.requires_grad and name not in made_of["untrained"]:
                raise UserError(f"{path}: no weight {name} in it")
    classifier.model.eval()
    template = TextTemplate(
        classifier.tokenizer,
        name=made_of["template"],
        max_length=made_of["max_length"],
        causal=classifier.causal,
    )
    return RewardModel(classifier, template, base=made_of["base"])
