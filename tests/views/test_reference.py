from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from rmexp.sweep.config_store import COMMANDS
from rmexp.sweep.schema import StudyConfig
from rmexp.trial.schema import TrialConfig
from rmexp.views.reference import reference_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_reference_in_the_docs_is_todays_schema() -> None:
    written = (DOCS / "config.md").read_text(encoding="utf-8")
    assert written == reference_markdown(), "run: python -m rmexp.views.reference > docs/config.md"


@pytest.mark.parametrize("model", [TrialConfig, StudyConfig, *COMMANDS.values()])
def test_every_key_is_in_the_reference(model: type[BaseModel]) -> None:
    text = reference_markdown()
    for key, field in model.model_fields.items():
        if key in ("models", "names"):
            continue  # the words of `rmexp compare`, no keys
        shown = field.alias or key
        assert f"`{shown}`" in text or f"`{shown}." in text, f"{model.__name__}.{key}"


def test_keys_below_a_section_are_in_the_reference() -> None:
    text = reference_markdown()
    for key in ("data.split.train", "rater.encoder", "sweep.pruner.kind", "executor.slots"):
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
