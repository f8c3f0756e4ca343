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

import numpy as np

from rmexp.backbone.text import TextTemplate, Tokens
from rmexp.errors import UserError
from rmexp.preferences.pair import Prompt


def text_key(prompt: Prompt, response: str) -> str:
    """32 hexadecimal digits over the content of one (prompt, response)."""
    plain = json.dumps([[m.role, m.content] for m in prompt] + [response], ensure_ascii=False)
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


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
        if missing:
            chosen = list(missing.values())
            fresh = self.template.encode(
                [prompts[i] for i in chosen], [responses[i] for i in chosen]
            )
            self._known.update(zip(missing, fresh, strict=True))
            self._write_shard(list(missing), fresh)
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
            table = load_from_disk(str(path)).data.table.combine_chunks()
            column = {n: table.column(n).chunk(0) for n in table.column_names}
            ids = column["ids"].values.to_numpy(zero_copy_only=True)
            ends = column["ids"].offsets.to_numpy()
            second, cut_prompt, cut_response = (
                column[n].to_pylist() for n in ("second_segment", "cut_prompt", "cut_response")
            )
            for i, key in enumerate(column["key"].to_pylist()):
                self._known[key] = Tokens(
                    ids[ends[i] : ends[i + 1]],
                    second[i],
                    self.template.has_types,
                    cut_prompt[i],
                    cut_response[i],
                )
            self._read.add(path.name)

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
        self._read.add(name)


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
