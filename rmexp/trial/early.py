"""What can be told of a trial before it makes anything: its data, metrics, model and device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmexp.errors import UserError, looked_in
from rmexp.preferences.pair import Prompt
from rmexp.trial import reading
from rmexp.trial.rater_schema import RaterConfig
from rmexp.trial.schema import (
    EvaluationConfig,
    LabellingConfig,
    TrainerConfig,
    TrialConfig,
)

# Every judged set of pairs has them, whatever its rows.
_ALWAYS_MEASURED = {"accuracy", "accuracy_low", "accuracy_high", "pairs", "ties", "loss", "margin"}


def check_expressions(config: EvaluationConfig) -> None:
    """Objectives and guards can be read, and the files of suites are there.

    Raises:
        UserError: with the position of the mistake, or naming the suite.
    """
    from rmexp.evaluation.objective import check_guard, check_objective

    for objective in config.objectives:
        check_objective(objective)
    for guard in config.guards:
        check_guard(guard)
    for name, of in config.suites.items():
        if of.path is not None and not Path(of.path).exists():
            raise UserError(f"evaluation.suites.{name}.path: no such file: {of.path}")


def check_backbone(config: TrialConfig) -> None:
    """The model is there, and can be trained as asked.

    Raises:
        UserError: naming the key.
    """
    from rmexp.backbone.described import check_reward_backbone

    peft = config.peft
    check_reward_backbone(
        config.model.name,
        max_length=config.model.max_length,
        last_k=peft.last_k if peft.kind == "last_k" else None,
    )


def check_rater(config: RaterConfig) -> None:
    """The files and models of a rater are there.

    Raises:
        UserError: naming the key.
    """
    from rmexp.backbone.described import model_description

    if config.kind in ("probe", "recorded") and not Path(config.path).exists():
        raise UserError(f"rater.path: no such file or folder: {config.path}")
    if config.kind in ("exemplar", "probe", "recorded"):
        model_description(config.encoder, "rater.encoder")
    if config.kind == "causal_lm":
        model_description(config.model, "rater.model")


def check_data(config: LabellingConfig) -> None:
    """Local data can be read and split, and a trial's metrics are measured on it.

    Data of the hub is left to the trial: fetching it takes minutes.

    Raises:
        UserError: naming file and line, or the objective.
    """
    if config.data.path is not None and not Path(config.data.path).exists():
        where = looked_in(config.data.path)
        raise UserError(f"data.path: no such file or folder: {config.data.path}{where}")
    if not isinstance(config, TrialConfig):
        if reading.is_local(config.data):
            reading.read_pairs(config.data)
        return
    if not reading.is_local(config.data):
        return
    _, splits = reading.read_splits(config.data)
    if not splits.train:
        raise UserError("data.split.train: 0 leaves no pair to train on")
    if splits.validation:
        reading.judged(splits.validation, reading.VALIDATION)
    if config.evaluation.test:
        reading.judged(splits.test, "test")
    _check_metrics(config, splits)


def check_device(config: TrainerConfig) -> None:
    """The devices to train on are there; imports torch where they are no CPU.

    Raises:
        UserError: naming the key.
    """
    if config.accelerator == "cpu":
        return
    import torch

    if config.accelerator == "mps":
        count = int(torch.backends.mps.is_available())
        name = "MPS device"
    else:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        name = "GPU"
    if not count:
        raise UserError(
            f"trainer.accelerator={config.accelerator}: torch sees no {name}; use trainer=cpu"
        )
    if config.devices > count:
        raise UserError(
            f"trainer.devices={config.devices}: torch sees {count} {name}{'s' * (count > 1)}; "
            f"use trainer.devices={count} or less"
        )


class _AnyScores:
    """Stands in for a model: which metrics a set has does not depend on the scores."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores that differ."""
        return np.modf(np.arange(len(responses)) * 0.618)[0]


def _check_metrics(config: TrialConfig, splits: reading.Splits) -> None:
    """Objectives and guards name what will be measured, as far as that is known now."""
    from rmexp.evaluation.objective import check_guard, check_objective, names_in

    options = config.evaluation
    if not splits.validation and not options.suites:
        return
    names = {n for e in [*options.objectives, *options.guards] for n in names_in(e)}
    if not options.suites and {n.removeprefix("base.") for n in names} <= _ALWAYS_MEASURED:
        return
    if any(reading.comes_from_hub(suite) for suite in options.suites.values()):
        # It is not fetched for this, so its metrics are not known.
        for suite in options.suites.values():
            if not reading.comes_from_hub(suite):
                reading.suite(suite)
        return

    from rmexp.evaluation.sets import evaluate_set

    sets = reading.evaluation_sets(config, splits)
    known = set(
        reading.known_metrics({n: evaluate_set(_AnyScores(), of) for n, of in sets.items()})
    )
    if any(name.startswith("base.") for name in names):
        known |= {f"base.{name}" for name in known}
    for objective in options.objectives:
        check_objective(objective, known)
    for guard in options.guards:
        check_guard(guard, known)
