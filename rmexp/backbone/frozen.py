"""Frozen states: what the layers that are never trained give, computed once a text.

They depend on weights and tokens alone, so every epoch and every trial finds them again, whatever
its labels, gamma, r, learning rate or seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmexp.backbone.batching import pad_rows
from rmexp.backbone.classifier import Classifier, layers_of
from rmexp.backbone.parallel import side_by_side
from rmexp.backbone.text import Tokens
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint

_FOLDER = "frozen"
GB = 1 << 30
_VALUES = 64  # of each weight, in the digest of what ran


class FrozenStates:
    """A cache on disk of the last frozen layer's output.

    Where only the head is trained, a text's states are those of the one token that is read.
    A text is run alone, without padding, so that its states are the same bits whichever texts a
    trial asks for first.

    Args:
        classifier: with frozen layers (``frozen_layers`` above 0).
        weights: identity of the weights that it was loaded from.
        cache_dir: the states lie in ``cache_dir/frozen``, which may be removed at any time.
        max_bytes: least recently used models' states are removed beyond this.

    Attributes:
        computed: texts run by this object.
        reused: texts that it found.
        left_out: texts whose states were asked for and not given, so that the layers run again.
    """

    def __init__(
        self, classifier: Classifier, weights: Fingerprint, cache_dir: Path, max_bytes: int
    ) -> None:
        self.classifier = classifier
        self.max_bytes = max_bytes
        self.computed = 0
        self.reused = 0
        self.left_out = 0
        self._known: dict[str, torch.Tensor] = {}
        self._read: set[str] = set()
        self._exact = True
        self._tried: set[str] = set()
        head_only = classifier.peft.kind == "head_only"
        self._read_one = head_only and (classifier.causal or self._reads_first_token())
        self._weights, self._cache_dir = weights, cache_dir
        self._held = _digest(classifier)

    @cached_property
    def _folder(self) -> Path:
        """By the device of the first states: the model may be moved between this and those."""
        identity = fingerprint(
            "frozen",
            weights=self._weights,
            held=self._held,
            layers=self.classifier.frozen_layers,
            one=self._read_one,
            autocast=self.classifier.autocast,
            device=self.classifier.device.type,
            torch=str(torch.__version__),
        )
        return self._cache_dir / _FOLDER / identity.short

    def states(self, tokens: Sequence[Tokens]) -> list[torch.Tensor] | None:
        """States of each text, ``[tokens, width]`` (or ``[1, width]``), memory-mapped.

        Returns:
            None, with a warning, where the cache would not hold them, or this model does not give
            equal scores from cached states.

        Raises:
            UserError: the cache folder cannot be written.
        """
        keys = [_key(t) for t in tokens]
        if any(key not in self._known for key in keys):
            self._read_shards()
        missing = {key: i for i, key in enumerate(keys) if key not in self._known}
        found = next((i for i, key in enumerate(keys) if key in self._known), None)
        asked = [tokens[i] for i in missing.values()]
        if asked and not self._room_for(asked):
            self.left_out += len(keys)
            return None
        with self.classifier.evaluating():
            if found is not None:
                self._try("found", tokens[found], self._known[keys[found]])
            fresh = self._run_all(asked) if asked and self._exact else []
            if fresh:
                self._try("fresh", asked[0], fresh[0])
        if not self._exact:
            self._warn("scores from what was kept are not this model's")
            self.left_out += len(keys)
            return None
        if asked:
            self._keep(list(missing), fresh)
        self.computed += len(missing)
        self.reused += len(keys) - len(missing)
        return [self._known[key] for key in keys]

    def _run_all(self, tokens: Sequence[Tokens]) -> list[torch.Tensor]:
        """States of texts, each run alone; on a CPU, as many at once as there are threads."""
        device = self.classifier.device
        layer = layers_of(self.classifier.inner)[self.classifier.frozen_layers - 1]
        local = threading.local()

        def keep(module: object, inputs: object, output: Any) -> None:
            local.found = output if isinstance(output, torch.Tensor) else output[0]
            raise _Enough

        def run(item: Tokens) -> torch.Tensor:
            causal = self.classifier.causal
            rows = pad_rows([item], np.array([0]), self.classifier.pad_id, causal)
            with contextlib.suppress(_Enough), torch.inference_mode():
                self.classifier.scores(rows.to(device))
            states = local.found[0].cpu()
            if self._read_one:
                states = states[-1:] if causal else states[:1]
            return states.clone()

        handle = layer.register_forward_hook(keep)
        try:
            if device.type != "cpu":
                return [run(item) for item in tokens]
            # One thread a text, so the sums are the same bits at any thread count.
            alone = any(self.classifier.runs_alone(len(t.ids)) for t in tokens)
            return list(side_by_side(run, tokens, 1 if alone else torch.get_num_threads()))
        finally:
            handle.remove()

    def _try(self, kind: str, tokens: Tokens, states: torch.Tensor) -> None:
        """Once of each kind, see whether states serve; where they do not, none are used again."""
        if kind in self._tried or not self._exact:
            return
        self._tried.add(kind)
        self._exact = self._is_exact(tokens, states)

    def _is_exact(self, tokens: Tokens, states: torch.Tensor) -> bool:
        """Whether scores from cached states are those of the whole model, tried on one text."""
        device = self.classifier.device
        plain = self.classifier.rows([tokens], None, len(tokens.ids))
        cached = self.classifier.rows([tokens], None, len(tokens.ids), [states])
        with torch.inference_mode():
            a, b = (self.classifier.scores(r[0].to(device)) for r in (plain, cached))
        return bool((a - b).abs().max() <= (0.05 if self.classifier.autocast else 1e-4))

    def _reads_first_token(self) -> bool:
        """Whether an encoder's score hangs on its first token's state alone."""
        pooling = getattr(self.classifier.inner.config, "classifier_pooling", "cls")
        return pooling == "cls"

    def _room_for(self, tokens: Sequence[Tokens]) -> bool:
        config = self.classifier.inner.config.get_text_config()
        count = len(tokens) if self._read_one else sum(len(t.ids) for t in tokens)
        wanted = count * int(config.hidden_size) * (2 if self.classifier.autocast else 4)
        wanted_in_all = wanted + _size(self._folder)
        if wanted_in_all > self.max_bytes:
            self._warn(
                f"keeping what they give takes {wanted_in_all / GB:.3g} GB, and "
                f"trainer.frozen_cache_gb allows {self.max_bytes / GB:.3g}"
            )
            return False
        others = [p for p in _folders(self._folder.parent) if p != self._folder]
        for path in sorted(others, key=_last_used):
            if wanted + _size(self._folder.parent) <= self.max_bytes:
                break
            _evict(path)
        return True

    def _warn(self, reason: str) -> None:
        if not self.left_out:
            warnings.warn(f"frozen layers run each time: {reason}", stacklevel=3)

    def _read_shards(self) -> None:
        # Another trial may make room with them meanwhile: what has vanished is computed again.
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._folder)
            for path in sorted(self._folder.glob("shard-*")):
                if path.name not in self._read:
                    self._read_shard(path)

    def _read_shard(self, path: Path) -> None:
        keys = (path / "keys.txt").read_text().split()
        ends = np.load(path / "ends.npy")
        table = np.load(path / "states.npy", mmap_mode="r")
        starts = np.concatenate([[0], ends[:-1]])
        for key, start, end in zip(keys, starts, ends, strict=True):
            self._known[key] = _as_states(table[start:end])
        self._read.add(path.name)

    def _keep(self, keys: list[str], states: list[torch.Tensor]) -> None:
        """Write and map; hold in memory what another trial has made room with meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            self._write_shard(keys, states)
        self._read_shards()
        for key, own in zip(keys, states, strict=True):
            self._known.setdefault(key, own)

    def _write_shard(self, keys: list[str], states: list[torch.Tensor]) -> None:
        name = "shard-" + hashlib.blake2b("".join(keys).encode(), digest_size=8).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".shard-", dir=self._folder))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"cannot write to {self._folder}: {error.strerror}") from None
        try:
            (scratch / "keys.txt").write_text("\n".join(keys))
            np.save(scratch / "ends.npy", np.cumsum([len(s) for s in states]))
            np.save(scratch / "states.npy", _as_array(torch.cat(states)))
            if not (self._folder / name).exists():
                os.replace(scratch, self._folder / name)
        except OSError:
            if not (self._folder / name).exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


class _Enough(Exception):
    """The states are there: the layers behind need not run."""


def remove_frozen_states(cache_dir: Path) -> None:
    """Remove all cached states."""
    shutil.rmtree(cache_dir / _FOLDER, ignore_errors=True)


def _digest(classifier: Classifier) -> str:
    """Of what the frozen layers hold: dtype and some values of each weight.

    A model that was saved in bfloat16 and loaded in float32 comes from the same weights as one
    that never was, and gives other states.
    """
    digest = hashlib.blake2b(digest_size=16)
    frozen = layers_of(classifier.inner)[: classifier.frozen_layers]
    for module in (classifier.inner.get_input_embeddings(), *frozen):
        for weight in module.parameters():
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // _VALUES)][:_VALUES].cpu().contiguous()
            digest.update(f"{some.dtype} {tuple(weight.shape)}".encode())
            digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _key(tokens: Tokens) -> str:
    digest = hashlib.blake2b(tokens.ids.astype("<i4").tobytes(), digest_size=16)
    digest.update(str(tokens.second_segment if tokens.has_types else -1).encode())
    return digest.hexdigest()


def _as_array(states: torch.Tensor) -> np.ndarray:
    """NumPy has no bfloat16: its bits are kept as int16."""
    if states.dtype == torch.bfloat16:
        return states.view(torch.int16).numpy()
    return states.float().numpy()


def _as_states(table: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the map is read-only, and nothing writes to it
        states = torch.from_numpy(table)
    return states.view(torch.bfloat16) if table.dtype == np.int16 else states


def _folders(path: Path) -> list[Path]:
    return [p for p in path.iterdir() if p.is_dir()] if path.is_dir() else []


def _last_used(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _evict(path: Path) -> None:
    """Remove a model's states, in one step to those who look for them."""
    gone = path.with_name(f".gone-{path.name}-{os.getpid()}")
    with contextlib.suppress(OSError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes of the files below; others may be removing them."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total
