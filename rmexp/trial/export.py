"""The command export: a model, or the checkpoint of a run, as one folder to hand on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from rmexp.backbone.described import model_description
from rmexp.errors import UserError
from rmexp.trial.evaluate import check_out, model_of
from rmexp.trial.section import Section


class ExportedModelConfig(Section):
    """Which model."""

    path: str = Field(
        description="folder of a trained model or a trial, a hub name, or a checkpoint of a run "
        "(a file, or the folder of trainer.sharded_checkpoints)"
    )


class ExportConfig(Section):
    """What is exported, and where to."""

    model: ExportedModelConfig
    out: str = Field(description="a folder that does not exist yet")
    merge: bool = Field(
        False, description="add LoRA's adapters to the weights, for plain transformers"
    )
    cache_dir: str = Field("", description="converted models")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default."""
        return {"model": {"path": "???"}, "merge": False, "cache_dir": ""}


def export_model(config: ExportConfig, on_begin: Callable[[str], None] | None = None) -> Path:
    """Write the folder.

    Args:
        config: which model, and where to.
        on_begin: called with the model's place once it is found, before anything heavy is
            imported.

    Raises:
        UserError: the model cannot be loaded, or the folder cannot be written.
    """
    check_out("out", config.out)
    if Path(config.out).exists():
        raise UserError(f"out: {config.out} exists already; give a new folder")
    source = model_of(config.model.path)
    if not Path(source).exists():
        model_description(source, "model.path")
    if on_begin is not None:
        on_begin(source)

    from rmexp.reward.export import export_reward_model

    cache_dir = Path(config.cache_dir) if config.cache_dir else None
    return export_reward_model(source, Path(config.out), merge=config.merge, cache_dir=cache_dir)
