"""Short runs of the trainer on pairs that can be learned, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmexp.preferences.pair import Pair, prompt_from_text
from rmexp.reward.data import TrainingPairs
from rmexp.reward.train import TrainedModel, train_reward_model

COUNT = 13


def labelled(**columns: np.ndarray) -> TrainingPairs:
    return TrainingPairs(
        ids=[f"t{i}" for i in range(COUNT)],
        prompts=[prompt_from_text(f"question {i}") for i in range(COUNT)],
        chosen=[f"kind answer {i}" + " more" * (i % 3) for i in range(COUNT)],
        rejected=[f"rude words {i}" + " more" * (i % 2) for i in range(COUNT)],
        **columns,
    )


def held_out(count: int = 7) -> list[Pair]:
    known: list[Any] = ["a", "b", "a", None]
    return [
        Pair(f"v{i}", prompt_from_text(f"held {i}"), f"kind {i}", f"rude {i * 7}", known[i % 4])
        for i in range(count)
    ]


def run(directory: Path, cache: Path, model: str = "tiny", **options: Any) -> TrainedModel:
    arguments: dict[str, Any] = {
        "train": labelled(),
        "validation": held_out(),
        "model": model,
        "directory": directory,
        "cache_dir": cache,
        "seed": 1,
        "epochs": 1,
        "batch_pairs": 4,
        "max_length": 128,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "threads": 1,
        "save": False,
    }
    arguments |= options
    return train_reward_model(arguments.pop("train"), arguments.pop("validation"), **arguments)


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return trained.model.classifier.model.state_dict()
