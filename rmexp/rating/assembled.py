"""Assembled ratings: the arrays of (pairs, rules, rater) once looked up, mapped into memory.

A trial at a new (r, gamma) reads these instead of looking up every rating again. They are derived
from the store and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences import Pair
from rmexp.rules import RuleSet

FOLDER = "assembled"
_KEPT = 32
_ARRAYS = ("psi_a", "psi_b", "relevance")


def assembled_key(
    pairs: Sequence[Pair], rules: RuleSet, rater: Fingerprint, embedder: Fingerprint | None
) -> Fingerprint:
    """Identity of the arrays: texts in order, rules in order, rater, and what gave relevance."""
    digest = hashlib.blake2b(digest_size=32)
    for pair in pairs:
        texts = [t for m in pair.prompt for t in (m.role, m.content)]
        texts += (pair.response_a, pair.response_b)
        lengths = ",".join([str(len(text)) for text in texts])
        digest.update(f"{lengths};{''.join(texts)}".encode("utf-8", "surrogatepass"))
    return fingerprint(
        "assembled_ratings",
        pairs=digest.hexdigest(),
        rules=rules.fingerprint,
        rater=rater,
        embedder=embedder,
    )


def load_assembled(
    directory: Path, key: Fingerprint
) -> tuple[dict[str, NDArray[np.float32]], int] | None:
    """The arrays, read-only and mapped, with the number of distinct ratings; None if not there."""
    folder = directory / FOLDER / key.short
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if about["key"] != key.hexdigest:
            return None
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        os.utime(folder)
    except (OSError, ValueError, KeyError):
        return None
    return arrays, int(about["ratings"])


def save_assembled(
    directory: Path, key: Fingerprint, arrays: dict[str, NDArray[np.float32]], ratings: int
) -> None:
    """Keep the arrays for the next trial; the least recently used beyond 32 go."""
    parent = directory / FOLDER
    parent.mkdir(exist_ok=True)
    folder = parent / key.short
    scratch = Path(tempfile.mkdtemp(prefix=f".{key.short}-", dir=parent))
    try:
        for name in _ARRAYS:
            np.save(scratch / f"{name}.npy", arrays[name])
        about = {"key": key.hexdigest, "ratings": ratings}
        (scratch / "about.json").write_text(json.dumps(about), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(scratch, folder)
    except OSError:
        pass  # no room, or another process put the same there first: nothing is lost
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _forget_oldest(parent)


def clear_assembled(directory: Path) -> None:
    """Delete all assembled arrays of a store."""
    shutil.rmtree(directory / FOLDER, ignore_errors=True)


def _forget_oldest(parent: Path) -> None:
    aged = []
    for folder in parent.iterdir():
        try:
            aged.append((folder.stat().st_mtime, folder))
        except FileNotFoundError:
            continue
    for _, folder in sorted(aged)[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
