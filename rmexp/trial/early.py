"""What can be told of a trial before it makes anything: its data, metrics, model and device."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING

from rmexp.errors import UserError, looked_in
from rmexp.trial import reading
from rmexp.trial.evaluation_schema import EvaluationConfig
from rmexp.trial.rater_schema import RaterConfig
from rmexp.trial.schema import LabellingConfig, TrainerConfig, TrialConfig

if TYPE_CHECKING:
    from rmexp.evaluation.sets import EvaluationSet

# Every judged set of pairs has them, whatever its rows.
_ALWAYS_MEASURED = {"accuracy", "accuracy_low", "accuracy_high", "pairs", "ties", "loss", "margin"}
# What follows stands in the rows.
_BY_ROWS = ("category/", "kind/")


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

    Rows of the hub are left to the trial: fetching them takes minutes. Of metrics on them, those
    are refused that no set of their kind has.

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
        _check_metrics(config, None)
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


def check_fetched(config: TrialConfig, sets: Mapping[str, EvaluationSet]) -> None:
    """Where rows came from the hub: what :func:`check_data` could not tell without them.

    Raises:
        UserError: an objective or a guard names what will not be measured.
    """
    fetched = map(reading.comes_from_hub, config.evaluation.suites.values())
    if reading.is_local(config.data) and not any(fetched):
        return
    from rmexp.evaluation.metric_names import metric_names

    _check_names(config.evaluation, {name: metric_names(of) for name, of in sets.items()})


def _check_metrics(config: TrialConfig, splits: reading.Splits | None) -> None:
    """Objectives and guards name what will be measured, as far as that is known now.

    Args:
        config: of the trial.
        splits: of local pairs.
    """
    options = config.evaluation
    validation = config.data.split.validation if splits is None else splits.validation
    if not validation and not options.suites:
        return
    if not options.suites and set(map(_without_base, _named(options))) <= _ALWAYS_MEASURED:
        return

    from rmexp.evaluation.metric_names import metric_names, possible_metric_names
    from rmexp.evaluation.sets import pairs_set

    names: dict[str, Set[str]] = {}
    by_rows: list[str] = []
    if splits is not None and splits.validation:
        pairs = reading.judged(splits.validation, reading.VALIDATION)
        names[reading.VALIDATION] = metric_names(pairs_set(pairs, reading.VALIDATION))
    elif validation:
        names[reading.VALIDATION] = possible_metric_names("pairs")
        by_rows += _BY_ROWS
    for name, suite in options.suites.items():
        if not reading.comes_from_hub(suite):
            names[name] = metric_names(reading.suite(suite))
            continue
        names[name] = possible_metric_names(suite.kind, prior=suite.prior is not None)
        if suite.kind in ("humanevalpack", "hh"):
            by_rows += [*_BY_ROWS, *(f"{name}/{group}" for group in _BY_ROWS)]
    _check_names(options, names, tuple(by_rows))


def _check_names(
    options: EvaluationConfig, names: Mapping[str, Set[str]], by_rows: tuple[str, ...] = ()
) -> None:
    """Every name is one of a set's, or begins as names do that only the rows can tell."""
    from rmexp.evaluation.objective import check_guard, check_objective

    known = reading.known_names(names)
    known |= {n for n in map(_without_base, _named(options)) if n.startswith(by_rows)}
    if any(name != _without_base(name) for name in _named(options)):
        known |= {f"base.{name}" for name in known}
    for objective in options.objectives:
        check_objective(objective, known)
    for guard in options.guards:
        check_guard(guard, known)


def _named(options: EvaluationConfig) -> set[str]:
    from rmexp.evaluation.objective import names_in

    return {n for e in [*options.objectives, *options.guards] for n in names_in(e)}


def _without_base(name: str) -> str:
    return name.removeprefix("base.")
