"""The Rule Adapter as a Selector: critical rules before anything is rated."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rmexp.adapter.settings import SETTINGS_FILE, check_rules, read_settings
from rmexp.backbone.sources import weights_fingerprint
from rmexp.fingerprint import Fingerprint, file_sha256, fingerprint
from rmexp.labelling.critical import check_r_and_gamma
from rmexp.labelling.selectors import SelectionContext
from rmexp.preferences import Pair, pairs_fingerprint
from rmexp.rating.rater import Embedder
from rmexp.rules import RuleSet


class AdapterSelector:
    """Chooses the r rules with the largest logits; equal ones go to the lower index.

    The model is loaded when pairs come whose logits are not in the cache: trials of a sweep run it
    once.

    Args:
        folder: of a saved adapter.
        rules: the rule set in use.
        r: critical rules per pair, which may differ from the adapter's own.
        embedder: makes the sentence encoder that the adapter was trained with, when it is needed.
        cache_dir: keeps logits by content; None to keep none.

    Raises:
        UserError: no adapter is there, or it was trained for another rule set.
    """

    needs_ratings: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path,
        rules: RuleSet,
        r: int,
        embedder: Callable[[], Embedder],
        cache_dir: Path | None = None,
    ) -> None:
        check_r_and_gamma(r, 0.0, len(rules))
        check_rules(read_settings(folder), rules, folder)
        self._folder, self._rules, self._r = folder, rules, r
        self._embedder, self._cache_dir = embedder, cache_dir
        self._adapter = fingerprint(
            "adapter",
            weights=weights_fingerprint(folder, cache_dir=cache_dir),
            settings=file_sha256(folder / SETTINGS_FILE),
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """By r and the adapter's files."""
        return fingerprint("selection", strategy="adapter", r=self._r, adapter=self._adapter)

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """Rule indices ``[pairs, r]``, the likeliest first; ratings are not looked at."""
        logits = self._logits(context.pairs)
        order = np.argsort(-logits, axis=1, kind="stable")[:, : self._r]
        return np.ascontiguousarray(order, dtype=np.int64)

    def _logits(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        path = None
        if self._cache_dir is not None:
            key = fingerprint("logits", adapter=self._adapter, pairs=pairs_fingerprint(pairs))
            path = self._cache_dir / "adapter" / f"{key.short}.npy"
            if path.is_file():
                kept: NDArray[np.float32] = np.load(path)
                return kept

        from rmexp.adapter.model import load_rule_adapter

        logits = load_rule_adapter(self._folder, self._rules, self._embedder()).logits(pairs)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.stem}.{os.getpid()}.npy")
            np.save(partial, logits)
            os.replace(partial, path)
        return logits
