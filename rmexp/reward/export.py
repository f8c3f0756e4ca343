"""Export: an adapter and its base become one plain model."""

from __future__ import annotations

from pathlib import Path

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.options import PeftOptions
from rmexp.errors import UserError
from rmexp.reward.model import CARD, HOW_IT_WAS_MADE, RewardModel, load_reward_model


def export_reward_model(source: Path, target: Path, *, cache_dir: Path | None = None) -> Path:
    """Write a reward model as one folder that plain transformers loads, adapters merged in.

    Weights are merged and written in float32.

    Args:
        source: a folder that training saved.
        target: a folder that does not exist yet.
        cache_dir: where named base models are kept.

    Raises:
        UserError: the source cannot be loaded, or the target is taken.
    """
    if target.exists():
        raise UserError(f"{target} exists already: give a new folder")
    model = load_reward_model(source, cache_dir=cache_dir)
    classifier = model.classifier
    if classifier.peft.kind == "lora":
        merged = classifier.model.merge_and_unload()
        classifier = Classifier(merged, classifier.tokenizer, classifier.causal, PeftOptions())
    saved = RewardModel(classifier, model.template, model.base).save(target)
    card = source / CARD
    if card.is_file():
        _, heading, rest = card.read_text(encoding="utf-8").partition(f"\n{HOW_IT_WAS_MADE}\n")
        with (saved / CARD).open("a", encoding="utf-8") as stream:
            stream.write(heading + rest)
    return saved
