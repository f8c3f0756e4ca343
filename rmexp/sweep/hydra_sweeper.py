"""Hydra's multirun with our controller behind it.

The published Optuna sweeper for Hydra pins an Optuna of years ago, runs trials in batches that
wait for the slowest, and knows no pruning; so the sweeper is ours.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rmexp.errors import UserError

if TYPE_CHECKING:
    from rmexp.sweep.launch import SweepPlan

_MODULE = "hydra_plugins.rmexp"


class StudySweeper(Sweeper):
    """Takes the multirun command line and runs it as a study.

    Attributes:
        at_end: called with the plan once the sweep has ended, also by too many failures; set by
            the command line, for what lies above this room.
    """

    at_end: ClassVar[Callable[[SweepPlan], None]] = staticmethod(lambda plan: None)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives."""
        self._loader = hydra_context.config_loader
        self._config = config
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, check, run; the end is told by the command line."""
        from rmexp.sweep.launch import plan_sweep
        from rmexp.trial.ranks import under_torchrun

        if under_torchrun():
            raise UserError(
                "a sweep under torchrun would be one sweep a rank; run the command once, without "
                "torchrun: the ranks of a trial (trainer.devices) are started for it"
            )

        overrides = OverridesParser.create(self._loader).parse_overrides(list(arguments))
        plan = plan_sweep(
            overrides,
            self._compose,
            self._group_options,
            lambda group, option: option_keys(self._loader, group, option),
            self._chosen("sweep"),
        )
        if plan.study.sweep.dry_run:
            from rmexp.sweep.dry_run import print_dry_run

            print_dry_run(plan)
            return None
        from rmexp.sweep.console import ProgressLines, print_end
        from rmexp.sweep.launch import run_sweep

        try:
            with ProgressLines() as lines:
                run_sweep(plan, lines, on_begin=lines.begin)
        except UserError:
            # There may be no study yet to say anything of; what went wrong is what counts.
            with contextlib.suppress(UserError):
                type(self).at_end(plan)
            raise
        type(self).at_end(plan)
        print_end(plan)
        return None

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._config, list(overrides))

    def _group_options(self, key: str) -> Sequence[str]:
        return list(self._loader.get_group_options(key))

    def _chosen(self, group: str) -> str | None:
        choice = self._config.hydra.runtime.choices.get(group)
        return None if choice in (None, "null") else str(choice)


def option_keys(loader: ConfigLoader, group: str, option: str) -> Mapping[str, Any]:
    """The keys that an option of a config group sets, with their values, unresolved.

    Empty for one that is not merged below its group's own name, such as a sweep or an experiment.
    """
    assert isinstance(loader, ConfigLoaderImpl)
    found = loader.repository.load_config(f"{group}/{option}")
    if found is None or (found.header["package"] or group) != group or "/" in group:
        return {}
    plain = OmegaConf.to_container(found.config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "defaults"}


def register() -> None:
    """Make the sweeper known to Hydra as ``hydra/sweeper: rmexp``.

    Hydra instantiates plugins of the namespace package ``hydra_plugins`` only, by name. A module
    of that name made here spares every installation a second top-level package.
    """
    try:
        parent = importlib.import_module("hydra_plugins")
    except ImportError:
        parent = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        parent.__path__ = []
    module = types.ModuleType(_MODULE)
    module.StudySweeper = StudySweeper  # type: ignore[attr-defined]
    parent.rmexp = sys.modules[_MODULE] = module  # type: ignore[attr-defined]
    StudySweeper.__module__ = _MODULE
    Plugins.instance().register(StudySweeper)
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name="rmexp",
        node={"_target_": f"{_MODULE}.{StudySweeper.__name__}"},
        provider="rmexp",
    )
