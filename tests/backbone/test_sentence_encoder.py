from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rmexp.backbone.embedding import SentenceEncoder
from rmexp.backbone.sources import resolve_model

TEXTS = ["How do I boil an egg?", "Sorry, I can't help.", "word " * 60, "", "Sorry, I can't help."]


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> SentenceEncoder:
    return SentenceEncoder(tiny_encoder)


def test_rows_are_of_unit_length_and_in_order(encoder: SentenceEncoder):
    vectors = encoder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, encoder.dim)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(vectors[1], vectors[4])


def test_a_row_does_not_depend_on_its_company(encoder: SentenceEncoder, tiny_encoder: Path):
    together = encoder.embed(TEXTS)
    alone = np.concatenate([encoder.embed([t]) for t in TEXTS])
    small = SentenceEncoder(tiny_encoder, token_budget=64).embed(TEXTS)
    assert np.abs(together - alone).max() < 2e-6
    assert np.abs(together - small).max() < 2e-6


def test_nothing_gives_nothing(encoder: SentenceEncoder):
    assert encoder.embed([]).shape == (0, encoder.dim)


def test_the_fingerprint_is_of_weights_and_length(encoder: SentenceEncoder, tiny_encoder: Path):
    assert SentenceEncoder(tiny_encoder).fingerprint == encoder.fingerprint
    assert SentenceEncoder(tiny_encoder, max_tokens=8).fingerprint != encoder.fingerprint


def test_minilm_puts_like_texts_together(cache: Path):
    encoder = SentenceEncoder(resolve_model("minilm", cache))
    texts = ["How do I boil an egg?", "Cooking eggs in hot water.", "The shares fell on Monday."]
    vectors = encoder.embed(texts)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
