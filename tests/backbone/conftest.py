"""Tiny models shared by this folder's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backbone-cache")


@pytest.fixture(scope="session")
def tiny(cache: Path) -> Path:
    from rmexp.backbone.sources import resolve_model

    return Path(resolve_model("tiny", cache))


@pytest.fixture(scope="session")
def tiny_encoder(cache: Path) -> Path:
    from rmexp.backbone.sources import resolve_model

    return Path(resolve_model("tiny_encoder", cache))
