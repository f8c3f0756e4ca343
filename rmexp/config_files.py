"""Where the configuration that ships with rmexp lies, and its registration with Hydra."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def config_dir() -> Path:
    """The folder of Hydra groups: inside the wheel, or beside the package in a checkout."""
    packed = _PACKAGE / "_conf"
    return packed if packed.is_dir() else _PACKAGE.parent / "conf"


def sweeps_dir() -> Path:
    """The folder of named sweeps."""
    packed = _PACKAGE / "_sweeps"
    return packed if packed.is_dir() else _PACKAGE.parent / "sweeps"
