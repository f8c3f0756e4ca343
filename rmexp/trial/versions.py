"""What a result depends on besides its config: library versions and rmexp's own code."""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from pathlib import Path

import rmexp
from rmexp.fingerprint import Fingerprint, file_sha256, fingerprint

_LIBRARIES = (
    "numpy",
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "datasets",
    "optuna",
    "hydra-core",
    "wandb",
)


def library_versions() -> dict[str, str]:
    """Versions of Python, rmexp and the libraries that can move a result."""
    versions = {"python": platform.python_version(), "rmexp": rmexp.__version__}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


@functools.cache
def code_fingerprint() -> Fingerprint:
    """Identity of rmexp's own code: every Python file of the package, by content."""
    root = Path(rmexp.__file__).parent
    files = sorted(root.rglob("*.py"))
    return fingerprint("code", **{str(f.relative_to(root)): file_sha256(f) for f in files})
