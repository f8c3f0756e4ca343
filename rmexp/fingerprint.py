"""Content hashes of plain data: the one identity used for caches, drift and rerun."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Fingerprint:
    """A content hash together with the parts it was made of.

    Attributes:
        kind: what is identified, such as ``"ratings"``.
        parts: each part as plain data; nested fingerprints stand as their digests.
        hexdigest: 64 hexadecimal digits over kind and parts.
    """

    kind: str
    parts: Mapping[str, Any]
    hexdigest: str

    @property
    def short(self) -> str:
        """The first 16 digits: enough for file names."""
        return self.hexdigest[:16]

    def __str__(self) -> str:
        return f"{self.kind}:{self.short}"

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a record on disk."""
        return {"kind": self.kind, "hexdigest": self.hexdigest, "parts": dict(self.parts)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Fingerprint:
        """The inverse of :meth:`to_plain`."""
        return cls(plain["kind"], dict(plain["parts"]), plain["hexdigest"])


def fingerprint(kind: str, **parts: Any) -> Fingerprint:
    """Hash plain data by content.

    Args:
        kind: what is identified; equal parts of another kind hash differently.
        parts: str, int, bool, None, finite float, mappings, sequences, other fingerprints, or
            anything with ``dtype``, ``shape`` and ``tobytes`` (NumPy arrays, hashed by content).

    Raises:
        TypeError: for data whose content cannot be hashed, naming where it stands.
        ValueError: for a float that is not finite.

    >>> fingerprint("x", a=1, b=2).hexdigest == fingerprint("x", b=2, a=1).hexdigest
    True
    """
    plain = {name: _plain(value, name) for name, value in sorted(parts.items())}
    text = json.dumps([kind, plain], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Fingerprint(kind, plain, digest)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Name the parts in which two fingerprints differ; empty where they are equal.

    >>> differences(fingerprint("x", a=1, b=2), fingerprint("x", a=1, b=3))
    ['b']
    """
    if old.hexdigest == new.hexdigest:
        return []
    if old.kind != new.kind:
        return ["kind"]
    names = sorted(set(old.parts) | set(new.parts))
    absent = object()
    return [n for n in names if old.parts.get(n, absent) != new.parts.get(n, absent)]


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: a fingerprint takes finite numbers, got {value}")
        return value
    if isinstance(value, Fingerprint):
        return str(value.kind) + ":" + value.hexdigest
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        body = hashlib.sha256(value.tobytes()).hexdigest()
        return f"array:{value.dtype}:{list(value.shape)}:{body}"
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise TypeError(f"{where}: a fingerprint takes plain data, got {type(value).__name__}")
