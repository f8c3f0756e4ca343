"""What a trial reads: pairs, their split, and the sets that it is measured on.

What a file holds is remembered as long as the file stays, so that a check before a trial, the
points of a sweep and the trial itself read it once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.errors import UserError
from rmexp.preferences import (
    Pair,
    PreferenceData,
    Splits,
    read_files,
    read_hub,
    read_starter,
    split_by_prompt,
)
from rmexp.trial.evaluation_schema import SuiteConfig
from rmexp.trial.schema import DataConfig, SplitConfig, TrialConfig

if TYPE_CHECKING:
    from rmexp.evaluation.sets import EvaluationSet, SetResult

VALIDATION = "validation"
# Data sets that stay in memory: a search chooses between few.
_REMEMBERED = 4
_ON_THE_HUB = {"rewardbench", "rewardbench2", "prior_sets", "humanevalpack", "hh"}
_UNUSED_IN_READING = {"split", "train_limit"}


def is_local(config: DataConfig) -> bool:
    """Whether the pairs come from files of this machine."""
    return config.source == "starter" or config.path is not None


def read_pairs(config: DataConfig) -> PreferenceData:
    """The preference pairs that the config names.

    Raises:
        UserError: naming file and line, or the data set that cannot be loaded.
    """
    if is_local(config):
        plain = config.model_dump_json(exclude=_UNUSED_IN_READING)
        return _local_pairs(plain, _file_states(config.path))
    assert config.name is not None
    return read_hub(
        config.name,
        split=config.hub_split,
        config_name=config.config_name,
        data_dir=config.data_dir,
        **_shared(config),
    )


def split_pairs(pairs: Sequence[Pair], config: SplitConfig) -> Splits:
    """The pairs in their three parts."""
    return split_by_prompt(
        pairs,
        train=config.train,
        validation=config.validation,
        test=config.test,
        seed=config.seed,
    )


def read_splits(config: DataConfig) -> tuple[PreferenceData, Splits]:
    """The pairs, and their parts with the training part cut to ``train_limit``.

    Raises:
        UserError: as :func:`read_pairs` and :func:`split_pairs`.
    """
    if is_local(config):
        data, splits = _local_splits(config.model_dump_json(), _file_states(config.path))
    else:
        data = read_pairs(config)
        splits = split_pairs(data.pairs, config.split)
    return data, replace(splits, train=splits.train[: config.train_limit])


def judged(pairs: Sequence[Pair], part: str) -> list[Pair]:
    """The pairs with a human preference: evaluation is against people, never rule labels.

    Raises:
        UserError: there is none.
    """
    found = [pair for pair in pairs if pair.preference is not None]
    if not found:
        instead = (
            "leave evaluation.test=false"
            if part == "test"
            else "train without measuring: 'data.split={train:1.0,validation:0.0,test:0.0}'"
        )
        raise UserError(
            f"data: no {part} pair has a human preference, so nothing can be measured; add "
            f"'preference' to some rows, or {instead}"
        )
    return found


def evaluation_sets(config: TrialConfig, splits: Splits) -> dict[str, EvaluationSet]:
    """What steers the search: the judged validation pairs, and the suites."""
    from rmexp.evaluation.sets import pairs_set

    sets = {}
    if splits.validation:
        sets[VALIDATION] = pairs_set(judged(splits.validation, VALIDATION), VALIDATION)
    return sets | {name: suite(of) for name, of in config.evaluation.suites.items()}


def suite(config: SuiteConfig) -> EvaluationSet:
    """The evaluation set that the config names, or the sample of it that is wanted.

    Raises:
        UserError: naming file and row, or what is missing.
    """
    if comes_from_hub(config):
        return _suite(config)
    return _local_suite(
        config.model_dump_json(), _file_states(config.path), _file_states(config.prior)
    )


def comes_from_hub(config: SuiteConfig) -> bool:
    """Whether rows of a suite are fetched, where no other place is given for them."""
    return (config.path is None and config.kind in _ON_THE_HUB) or config.prior == "hub"


def known_metrics(results: Mapping[str, SetResult]) -> dict[str, float]:
    """Metrics under the names that an objective may use.

    Those of the validation pairs by their names; those of a suite as ``SUITE/NAME``, and as
    ``NAME`` where the validation pairs and earlier suites have none of that name.
    """
    known: dict[str, float] = {}
    if VALIDATION in results:
        known |= results[VALIDATION].metrics
    for suite, result in results.items():
        if suite != VALIDATION:
            known |= {f"{suite}/{name}": value for name, value in result.metrics.items()}
            known = {**result.metrics, **known}
    return known


def known_names(names: Mapping[str, Set[str]]) -> set[str]:
    """The same of names alone, by set."""
    known = {name for own in names.values() for name in own}
    suites = names.keys() - {VALIDATION}
    return known | {f"{suite}/{name}" for suite in suites for name in names[suite]}


def _shared(config: DataConfig) -> dict[str, Any]:
    return {
        "columns": config.columns,
        "on_invalid": config.on_invalid,
        "seed": config.seed,
        "limit": config.limit,
    }


def _file_states(path: str | None) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file, or a file of a folder, does."""
    if path is None:
        return ()
    root = Path(path)
    files = sorted(root.iterdir()) if root.is_dir() else [root] if root.exists() else []
    stats = [(str(file.resolve()), file.stat()) for file in files if file.exists()]
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats)


@functools.lru_cache(maxsize=_REMEMBERED)
def _local_pairs(plain: str, states: tuple[Any, ...]) -> PreferenceData:
    config = DataConfig.model_validate_json(plain)
    if config.path is None:
        return read_starter(limit=config.limit)
    return read_files(config.path, **_shared(config))


@functools.lru_cache(maxsize=_REMEMBERED)
def _local_splits(plain: str, states: tuple[Any, ...]) -> tuple[PreferenceData, Splits]:
    config = DataConfig.model_validate_json(plain)
    data = read_pairs(config)
    return data, split_pairs(data.pairs, config.split)


@functools.lru_cache(maxsize=_REMEMBERED)
def _local_suite(plain: str, *states: tuple[Any, ...]) -> EvaluationSet:
    return _suite(SuiteConfig.model_validate_json(plain))


def _suite(config: SuiteConfig) -> EvaluationSet:
    from rmexp.evaluation.sets import read_set

    of = read_set(
        config.kind,
        config.path,
        prior=config.prior,
        name=config.name,
        licence=config.licence,
        styles=config.styles,
    )
    return of if config.rows is None else of.sample(config.rows, config.seed)
