"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from pathlib import Path

# Before any test imports torch or transformers: no network, no parallel tokenizers, and no more
# threads than cores, also where two processes share the tests.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real third-party data, which is never part of the project."""
    folder = Path(os.environ.get("RMEXP_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set RMEXP_SHARED_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test stands in its own folder, so that relative paths never reach the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    """Overrides that make a trial take about a second: tiny model, instant rater, no tracker."""
    return [
        "model=tiny",
        "rater=custom",
        "rater.target=word_rater:WordRater",
        "rules.ids=[answers_alarming_wording,no_invented_intent,offers_safe_alternative]",
        "data.limit=40",
        "r=1",
        "epochs=1",
        "tracker=none",
        "trainer.threads=1",
        f"output_dir={tmp_path / 'outputs'}",
        f"cache_dir={tmp_path / 'cache'}",
    ]
