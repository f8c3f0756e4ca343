from __future__ import annotations

from pathlib import Path

from rmexp.views.reference import reference_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_reference_in_the_docs_is_todays_schema() -> None:
    written = (DOCS / "config.md").read_text(encoding="utf-8")
    assert written == reference_markdown(), "run: python -m rmexp.views.reference > docs/config.md"


def test_every_key_is_in_the_reference() -> None:
    text = reference_markdown()
    for key in (
        "gamma",
        "data.split.train",
        "rater.encoder",
        "sweep.pruner.kind",
        "executor.slots",
        "picture",
    ):
        assert f"`{key}`" in text
