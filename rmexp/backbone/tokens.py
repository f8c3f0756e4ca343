"""Tokens on disk: every text is tokenised once per (template, tokenizer, length).

Texts are found again by content, not by data set: a trial whose labels drop some pairs or swap
the sides tokenises nothing anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.backbone.text import TextTemplate, Tokens
from rmexp.errors import UserError
from rmexp.preferences.pair import Prompt


def text_key(prompt: Prompt, response: str) -> str:
    """32 hexadecimal digits over the content of one (prompt, response)."""
    plain = json.dumps([[m.role, m.content] for m in prompt] + [response], ensure_ascii=False)
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


# Texts in one file: what is in memory at once while they are tokenised.
_SHARD_TEXTS = 1 << 14


class TokenStore:
    """Tokens of texts, memory-mapped by ``datasets`` and shared by trials and ranks.

    Attributes:
        tokenised: texts tokenised by this object.
        reused: texts that it found on disk or in memory.
    """

    def __init__(self, template: TextTemplate, cache_dir: Path | None) -> None:
        self.template = template
        self.tokenised = 0
        self.reused = 0
        self._known: dict[str, Tokens] = {}
        self._read: set[str] = set()
        self._folder = None
        if cache_dir is not None:
            self._folder = cache_dir / "tokens" / template.fingerprint.short

    def tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Tokens]:
        """Tokens of each (prompt, response), in order.

        Raises:
            UserError: the cache folder cannot be written.
        """
        keys = [text_key(p, r) for p, r in zip(prompts, responses, strict=True)]
        if any(key not in self._known for key in keys):
            self._read_shards()
        missing = {key: i for i, key in enumerate(keys) if key not in self._known}
        names, chosen = list(missing), list(missing.values())
        for at in range(0, len(chosen), _SHARD_TEXTS):
            part = chosen[at : at + _SHARD_TEXTS]
            fresh = self.template.encode([prompts[i] for i in part], [responses[i] for i in part])
            if self._folder is None:
                self._known.update(zip(names[at : at + _SHARD_TEXTS], fresh, strict=True))
            else:
                self._write_shard(names[at : at + _SHARD_TEXTS], fresh)
        if missing:
            # From the file, which is mapped: what was just made need not stay in memory.
            self._read_shards()
        self.tokenised += len(missing)
        self.reused += len(keys) - len(missing)
        return [self._known[key] for key in keys]

    def _read_shards(self) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        from datasets import load_from_disk

        for path in sorted(self._folder.glob("shard-*")):
            if path.name in self._read:
                continue
            # Piece by piece: joining them would copy the file into memory.
            for piece in load_from_disk(str(path)).data.table.to_batches():
                self._read_piece(piece)
            self._read.add(path.name)

    def _read_piece(self, piece: Any) -> None:
        ids = piece.column("ids").values.to_numpy(zero_copy_only=True)
        ends = piece.column("ids").offsets.to_numpy()
        second, cut_prompt, cut_response = (
            piece.column(n).to_pylist() for n in ("second_segment", "cut_prompt", "cut_response")
        )
        for i, key in enumerate(piece.column("key").to_pylist()):
            self._known[key] = Tokens(
                ids[ends[i] : ends[i + 1]],
                second[i],
                self.template.has_types,
                cut_prompt[i],
                cut_response[i],
            )

    def _write_shard(self, keys: list[str], tokens: list[Tokens]) -> None:
        if self._folder is None:
            return
        from datasets import Dataset, Features, List, Value

        features = Features(
            key=Value("string"),
            ids=List(Value("int32")),
            second_segment=Value("int32"),
            cut_prompt=Value("int32"),
            cut_response=Value("int32"),
        )
        columns = {
            "key": keys,
            "ids": [t.ids for t in tokens],
            "second_segment": [t.second_segment for t in tokens],
            "cut_prompt": [t.cut_prompt for t in tokens],
            "cut_response": [t.cut_response for t in tokens],
        }
        name = "shard-" + hashlib.blake2b("".join(keys).encode(), digest_size=8).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".shard-", dir=self._folder))
        except OSError as error:
            raise UserError(f"cannot write to {self._folder}: {error.strerror}") from None
        try:
            with _no_bars():
                Dataset.from_dict(columns, features=features).save_to_disk(str(scratch))
            # Another process may have written the same texts meanwhile: its shard serves as well.
            if not (self._folder / name).exists():
                os.replace(scratch, self._folder / name)
        except OSError:
            if not (self._folder / name).exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _no_bars() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


def same_tokens(a: Tokens, b: Tokens) -> bool:
    """Whether two sequences are one to the model."""
    return bool(np.array_equal(a.ids, b.ids)) and a.second_segment == b.second_segment
