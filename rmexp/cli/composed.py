"""Commands that take Hydra overrides: compose first, act then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rmexp.cli.hydra_errors import explain, unknown_flag
from rmexp.config_files import config_dir, sweeps_dir
from rmexp.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from pydantic import BaseModel


def run_composed(config_name: str, words: list[str], task: Callable[[DictConfig], None]) -> None:
    """Compose a command's config and hand it to ``task``; nothing heavy is imported before.

    Raises:
        UserError: what cannot be composed, on one line.
    """
    flag = unknown_flag(words)
    if flag is not None:
        raise UserError(f"{config_name}: no flag {flag}; see 'rmexp {config_name} --help'")
    # Hydra prints a hint instead of the error unless told to let it through.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rmexp.sweep.config_store import register

    named = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("sweep=")]
    register(sweeps_dir(), Path.cwd() / "sweeps", chosen=named)
    sys.argv = [f"rmexp {config_name}", *_overrides_first(config_name, words)]
    composed: list[DictConfig] = []
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(
            composed.append
        )()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, config_name, _models(config_name))) from error
    except ValueError as error:
        # Hydra's own, for trainer=3.
        if "Config group override must be" not in str(error):
            raise
        groups = [word for word in words if (config_dir() / word.partition("=")[0]).is_dir()]
        raise UserError(
            f"a config group takes the name of an option, got {' '.join(groups)}"
        ) from error
    # Outside Hydra, which would print lines of its own above an error. Empty for --cfg and -m.
    for config in composed:
        task(config)


def _overrides_first(command: str, words: list[str]) -> list[str]:
    """Hydra's parser takes overrides in one piece, and prints its usage for one behind a flag.

    Raises:
        UserError: for a flag without its value, or with one that there is not.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        if message.startswith("argument --cfg"):
            message = "--cfg takes job, hydra or all, as in --cfg job: the composed config"
        raise UserError(f"{command}: {message}")

    parser = get_args_parser()
    # Else it prints a page of usage and ends the process.
    parser.error = refuse
    parsed, behind = parser.parse_known_args(words)
    flags = list(words)
    for override in (*parsed.overrides, *behind):
        flags.remove(override)
    return [*parsed.overrides, *behind, *flags]


def _models(command: str) -> list[type[BaseModel]]:
    from rmexp.sweep.config_store import COMMANDS
    from rmexp.sweep.schema import StudyConfig
    from rmexp.trial.schema import TrialConfig

    return [COMMANDS[command]] if command in COMMANDS else [TrialConfig, StudyConfig]


def fail(message: str) -> NoReturn:
    """One line, exit code 2."""
    print(f"rmexp: {message}", file=sys.stderr)
    sys.exit(2)
