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


def test_defaults_are_those_that_a_command_begins_with() -> None:
    rows = {}
    for line in reference_markdown().splitlines():
        if line.startswith("| `"):
            key, _, default, *_ = [cell.strip() for cell in line.strip("|").split("|")]
            rows.setdefault(key.strip("`"), default)
    # conf/model/minilm.yaml, which rmexp train begins with, against the schema.
    assert rows["model.max_length"] == "`256`; schema: `512`"
    assert rows["evaluation.guards"] == "`[]`"
    assert rows["sweep.retry"] == "`{'lost_worker': 1}`"
    assert rows["data.columns"] == "`{}`"
    assert rows["learning_rate"] == "`0.0003`"
    # Of another kind than the group that train begins with.
    assert rows["rater.max_length"] == "`2048`"
