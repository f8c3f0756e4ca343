"""Sentence embeddings: mean-pooled, of unit length, the same whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.batching import length_groups, pad_rows
from rmexp.backbone.load import hub_arguments, load_tokenizer
from rmexp.backbone.quiet import quiet_transformers
from rmexp.backbone.sources import ENCODER_TOKENS, encoder_fingerprint
from rmexp.backbone.text import Tokens
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint


class SentenceEncoder:
    """An encoder that gives each text one vector.

    Args:
        path: a folder or hub name of a BERT-like encoder (see ``resolve_model``).
        max_tokens: longer texts are cut at their right.
        token_budget: tokens in one forward pass.
        cache_dir: where the weights' hash is remembered; None to hash them now.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        max_tokens: int = ENCODER_TOKENS,
        token_budget: int = 2048,
        cache_dir: Path | None = None,
    ):
        from transformers import AutoModel

        where = hub_arguments(path)
        try:
            with quiet_transformers():
                self._model = AutoModel.from_pretrained(
                    **where, dtype=torch.float32, use_safetensors=True
                ).eval()
                vocabulary = int(self._model.config.vocab_size)
                self._tokenizer = load_tokenizer(path, vocabulary)
        except OSError as error:
            first = str(error).splitlines()[0]
            raise UserError(f"model {path} cannot be loaded: {first}") from None
        self._max_tokens = max_tokens
        self._token_budget = token_budget
        self.dim = int(self._model.config.hidden_size)
        self.fingerprint: Fingerprint = encoder_fingerprint(path, max_tokens, cache_dir)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 ``[texts, dim]``, rows of unit length.

        Identical texts are run once; a text's row does not depend on the others beyond float32
        rounding (about 1e-7).
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self.dim), dtype=np.float32)
        encoded = self._tokenizer(
            distinct, truncation=True, max_length=self._max_tokens, verbose=False
        )["input_ids"]
        tokens = [Tokens(np.asarray(ids, np.int32), len(ids), False, 0, 0) for ids in encoded]
        vectors = np.empty((len(distinct), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for group in length_groups([len(t.ids) for t in tokens], self._token_budget):
                rows = pad_rows(tokens, group, self._tokenizer.pad_token_id, causal=False)
                hidden = self._model(
                    input_ids=rows.input_ids, attention_mask=rows.attention_mask
                ).last_hidden_state
                width = hidden.shape[1]
                real = torch.arange(width) <= rows.column[:, None]
                mask = real.unsqueeze(-1).to(hidden.dtype)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                vectors[group] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        place = {text: i for i, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]
