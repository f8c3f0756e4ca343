"""Registration with Hydra: the schema's defaults, the named sweeps, the sweeper."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from rmexp.errors import UserError
from rmexp.sweep import hydra_sweeper
from rmexp.sweep.schema import StudyConfig
from rmexp.trial.adapter import AdapterConfig
from rmexp.trial.audit import AuditConfig
from rmexp.trial.compare import CompareConfig
from rmexp.trial.evaluate import EvaluateConfig
from rmexp.trial.export import ExportConfig
from rmexp.trial.label import LabelConfig
from rmexp.trial.ratings import RateConfig, RaterCommandConfig
from rmexp.trial.schema import TrialConfig
from rmexp.trial.score import ScoreConfig

# The configs of the commands that train no single trial, by the name of their file in conf/.
COMMANDS: dict[str, Any] = {
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "score": ScoreConfig,
    "export": ExportConfig,
    "label": LabelConfig,
    "audit": AuditConfig,
    "rate": RateConfig,
    "rater": RaterCommandConfig,
    "adapter": AdapterConfig,
}


def schema_defaults() -> dict[str, Any]:
    """Every key of a trial with its default, so that the command line may set any of them."""
    plain = TrialConfig(cache_dir="").to_plain()
    # The rater's keys depend on its kind; its config group gives them.
    del plain["rater"]
    return plain


def register(*sweep_folders: Path, chosen: Collection[str] = ()) -> None:
    """Make defaults and named sweeps known to Hydra.

    Args:
        sweep_folders: folders of ``NAME.yaml``, selected as ``sweep=NAME``; later ones win.
        chosen: the sweeps that the command names.

    Raises:
        UserError: naming a chosen sweep's file that is not YAML; any other is no matter of this
            command.
    """
    store = ConfigStore.instance()
    store.store(name="trial_schema", node=schema_defaults(), provider="rmexp")
    sweep = {"sweep": StudyConfig().sweep.model_dump(mode="json")}
    store.store(name="sweep_schema", node=sweep, provider="rmexp")
    for name, command in COMMANDS.items():
        store.store(name=f"{name}_schema", node=command.defaults(), provider="rmexp")
    hydra_sweeper.register()
    for folder in sweep_folders:
        for path in sorted(folder.glob("*.yaml")):
            try:
                node = _read(path)
            except UserError:
                if path.stem in chosen:
                    raise
                continue
            store.store(
                group="sweep",
                name=path.stem,
                node=node,
                package="_global_",
                provider=str(path),
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path}: expected 'key: value' lines")
    return plain
