"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import itertools
import math
import random
import warnings
import zlib
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial

from rmexp.errors import UserError
from rmexp.sweep.schema import PrunerConfig, SamplerConfig, SweepConfig
from rmexp.sweep.space import Space

VIOLATIONS = "violations"
LARGEST_GRID = 100_000  # each of its points is held in memory


def make_sampler(
    config: SamplerConfig,
    space: Space,
    existing: int,
    *,
    controller: str = "",
    guarded: bool = False,
    objectives: int = 1,
) -> Any:
    """Optuna's sampler of that name, seeded from (seed, existing trials, controller).

    Args:
        config: kind and seed.
        space: what is searched.
        existing: trials in the study; a resumed study must not propose its old points again.
        controller: id where several controllers run at once, lest they propose the same points.
        guarded: whether trials carry violations of guards, for the samplers that learn from them.
        objectives: how many there are.

    Raises:
        UserError: the sampler cannot search this.
    """
    with warnings.catch_warnings():
        # Optuna marks what it may yet change; the exact pins say which Optuna was tried.
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", ".*constraints_func", FutureWarning)
        return _made(config, space, existing, controller, guarded, objectives)


def _made(
    config: SamplerConfig,
    space: Space,
    existing: int,
    controller: str,
    guarded: bool,
    objectives: int,
) -> Any:
    seed = (config.seed * 1_000_003 + existing + zlib.crc32(controller.encode())) % 2**32
    constraints = {"constraints_func": violations} if guarded else {}
    startup = {"n_startup_trials": config.startup_trials}
    check_sampler(config, objectives)
    if config.kind == "tpe":
        # constant_liar: with several trials running, do not propose their neighbourhood again.
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            group=space.conditional,
            constant_liar=True,
            **startup,
            **constraints,
        )
    if config.kind in ("random", "grid"):  # A grid's points are listed, none is drawn.
        return optuna.samplers.RandomSampler(seed=seed)
    if config.kind == "gp":
        return optuna.samplers.GPSampler(seed=seed, **startup, **constraints)
    if config.kind == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, **startup)
    if config.kind == "qmc":
        return optuna.samplers.QMCSampler(seed=config.seed, scramble=True)
    if config.kind == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, **constraints)
    return optuna.samplers.NSGAIIISampler(seed=seed, **constraints)


def check_sampler(config: SamplerConfig, objectives: int) -> None:
    """Refuse a sampler that cannot search with several objectives.

    Raises:
        UserError: naming the key.
    """
    if objectives > 1 and config.kind == "cmaes":
        raise UserError("sweep.sampler.kind: cmaes takes one objective; use tpe, gp or nsga2")


def violations(trial: FrozenTrial) -> Sequence[float]:
    """By how much a trial breaks each guard; 0 or less is kept."""
    return trial.user_attrs.get(VIOLATIONS, ())


def make_pruner(config: PrunerConfig) -> Any:
    """Optuna's pruner of that name."""
    startup, warmup = config.startup_trials, config.warmup_epochs
    if config.kind == "none":
        return optuna.pruners.NopPruner()
    if config.kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    if config.kind == "percentile":
        return optuna.pruners.PercentilePruner(
            config.percentile, n_startup_trials=startup, n_warmup_steps=warmup
        )
    if config.kind == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, warmup))
    if config.kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, warmup))
    return optuna.pruners.PatientPruner(None, patience=config.patience)


def listed_points(config: SweepConfig, space: Space) -> list[dict[str, Any]]:
    """Points to run before any is drawn, as Optuna's labels: the user's own, then those of a grid.

    A grid comes in an order drawn from the seed, so that a part of it is an even sample. Optuna's
    own sampler gives a point to two controllers that ask at once; a list can be claimed.

    Raises:
        UserError: a point is outside the space, or the space is no grid.
    """
    points = [{k: space.label(k, v) for k, v in point.items()} for point in config.enqueue]
    if config.sampler.kind == "grid":
        axes = _grid(space)
        size = math.prod(len(axis) for axis in axes.values())
        if size > LARGEST_GRID:
            raise UserError(
                f"sweep.sampler.kind: the grid has {size:,} points, {LARGEST_GRID:,} is the most; "
                "use random or qmc"
            )
        values = itertools.product(*axes.values())
        grid = [dict(zip(axes, point, strict=True)) for point in values]
        random.Random(config.sampler.seed).shuffle(grid)
        points += [point for point in grid if point not in points]
    return points


def target_of(config: SweepConfig, listed: Collection[Any]) -> int:
    """Finished trials to come to; a grid may hold fewer points than were asked for."""
    if config.sampler.kind != "grid":
        return config.trials
    return min(config.trials, len(listed))


def _grid(space: Space) -> dict[str, list[Any]]:
    if space.conditional:
        raise UserError("sweep.sampler.kind: grid cannot search a space with 'when'; use tpe")
    grid: dict[str, list[Any]] = {}
    for dimension in space.dimensions:
        d = dimension.distribution
        if isinstance(d, CategoricalDistribution):
            grid[dimension.key] = list(d.choices)
        elif isinstance(d, FloatDistribution) and d.step is None:
            raise UserError(
                f"sweep.sampler.kind: grid needs finite ranges, but {dimension.key} is an "
                "interval; write choice(...) or range(start, stop, step)"
            )
        else:
            count = int(dimension.size)
            # In decimals, as a user writes them: 0.3 must not become 0.30000000000000004.
            low, step = Decimal(str(d.low)), Decimal(str(d.step))
            grid[dimension.key] = [type(d.low)(low + i * step) for i in range(count)]
    return grid
