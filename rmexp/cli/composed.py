"""Commands that take Hydra overrides: compose first, act then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rmexp.config_files import config_dir, sweeps_dir
from rmexp.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_composed(config_name: str, words: list[str], task: Callable[[DictConfig], None]) -> None:
    """Compose a command's config and hand it to ``task``; nothing heavy is imported before.

    Raises:
        UserError: Hydra's complaint, on one line.
    """
    # Hydra prints a hint instead of the error unless told to let it through.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rmexp.sweep.config_store import register

    register(sweeps_dir(), Path.cwd() / "sweeps")
    sys.argv = [f"rmexp {config_name}", *words]
    composed: list[DictConfig] = []
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(
            composed.append
        )()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_lines(error)) from error
    # Outside Hydra, which would print lines of its own above an error. Empty for --cfg and -m.
    for config in composed:
        task(config)


def _first_lines(error: BaseException) -> str:
    """Hydra's message on one line, without its hints over several lines."""
    cause = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(
        line for line in lines if not line.startswith(("Set the env", "full_key:", "object_type"))
    )
    if cause is not None and str(cause) and str(cause).splitlines()[0] not in text:
        text += f" ({str(cause).splitlines()[0]})"
    return text


def fail(message: str) -> NoReturn:
    """One line, exit code 2."""
    print(f"rmexp: {message}", file=sys.stderr)
    sys.exit(2)
