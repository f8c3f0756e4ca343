"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial

from rmexp.errors import UserError
from rmexp.sweep.schema import PrunerConfig, SamplerConfig
from rmexp.sweep.space import Space

VIOLATIONS = "violations"


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
    if config.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.kind == "grid":
        return _Grid(_grid(space), seed=config.seed)
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


class _Grid(optuna.samplers.GridSampler):
    """Optuna's, which at its last point calls ``study.stop``, an error under ask and tell."""

    def after_trial(self, *arguments: Any) -> None:
        """Nothing: the controller knows the size of the grid."""


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
            grid[dimension.key] = [d.low + i * d.step for i in range(count)]
    return grid
