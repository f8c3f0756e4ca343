"""The command compare on trials with a suite, and on models that differ."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from quick_config import quick_config

from rmexp.errors import UserError
from rmexp.reward.model import load_base_model
from rmexp.trial.compare import CompareConfig, compare_models
from rmexp.trial.evaluation_schema import SuiteConfig
from rmexp.trial.run import run_trial
from rmexp.trial.schema import trial_config
from rmexp.views.evaluation import comparison_notes, comparison_picture


@pytest.fixture
def suite(tmp_path: Path) -> SuiteConfig:
    """Six rows, one of them a prompt that every trial here trains on."""
    from rmexp.preferences import read_starter

    (first, *_) = read_starter(limit=1).pairs
    prompts = [f"Suite question {i}?" for i in range(5)]
    rows = [
        {"id": f"s{i}", "prompt": prompt, "response_a": "yes " * (i + 1), "response_b": "no"}
        | {"preference": "ab"[i % 2]}
        for i, prompt in enumerate([first.prompt[-1].content, *prompts])
    ]
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SuiteConfig(kind="file", path=str(path), name="Mine", licence="MIT")


def trial(tmp_path: Path, name: str, suite: SuiteConfig, **more) -> str:
    plain = quick_config(
        tmp_path,
        data={"limit": 30, "split": {"train": 1.0, "validation": 0.0, "test": 0.0}},
        evaluation={"suites": {"mine": suite.model_dump(mode="json")}},
    )
    record = run_trial(trial_config({**plain, **more}), directory=tmp_path / name)
    assert record.state == "complete", record.reason
    return str(tmp_path / name)


def config(tmp_path: Path, suite: SuiteConfig, models: list[str], **more) -> CompareConfig:
    names = [Path(model).name for model in models]
    given = {"models": models, "names": names, "suite": suite, "device": "cpu"}
    return CompareConfig(**given, cache_dir=str(tmp_path / "cache"), **more)


def test_trials_of_different_lengths_on_a_suite(tmp_path: Path, suite: SuiteConfig) -> None:
    short = trial(tmp_path, "short", suite, model={"name": "tiny", "max_length": 32})
    long = trial(tmp_path, "long", suite, seed=1, model={"name": "tiny", "max_length": 64})
    base = load_base_model(
        "tiny", seed=2, template="plain", max_length=64, cache_dir=tmp_path / "cache"
    )
    base.save(tmp_path / "other")
    models = [short, long, str(tmp_path / "other")]
    out = tmp_path / "out.json"
    found = compare_models(config(tmp_path, suite, models, out=str(out)))
    # Each is what the trial itself measured.
    for name in ("short", "long"):
        record = json.loads((tmp_path / name / "record.json").read_text())
        accuracy = record["metrics"]["mine/accuracy"]
        assert found.results[name].metrics["accuracy"] == pytest.approx(accuracy)
    assert len({tuple(result.scores) for result in found.results.values()}) == 3
    assert found.read_as == {
        "short": {"template": "chat", "max_length": 32, "precision": "32"},
        "long": {"template": "chat", "max_length": 64, "precision": "32"},
        "other": {"template": "plain", "max_length": 64, "precision": "32"},
    }
    # What a trial has seen of the set is told; of a model of no trial it is not known.
    assert {name: seen["exact"] for name, seen in found.contamination.items()} == {
        "short": 1,
        "long": 1,
    }
    kept = json.loads(out.read_text())
    assert kept["read_as"] == found.read_as
    assert kept["contamination"] == found.contamination
    notes = "\n".join(comparison_notes(found))
    assert "short: template chat, at most 32 tokens, precision 32" in notes
    assert "the models differ in template, max_length" in notes
    assert "template=chat max_length=32 all read as short does" in notes
    assert "long, contamination: 1 of 6 prompts" in notes
    assert "at most 64 tokens" in comparison_picture(found)

    alike = {"template": "chat", "max_length": 64, "precision": "bf16"}
    found = compare_models(config(tmp_path, suite, models, **alike))
    assert list(found.read_as.values()) == [alike] * 3
    assert "the models differ" not in "\n".join(comparison_notes(found))


class Held:
    """A scorer that, as a network does, refers to itself."""

    alive: ClassVar = weakref.WeakSet()

    def __init__(self) -> None:
        assert not self.alive, "another model is still there"
        self.alive.add(self)
        self.myself = self

    def score(self, prompts, responses):
        return np.array([float(len(r)) for r in responses])


class AlsoHeld(Held):
    """Under another name."""


def test_one_model_at_a_time_is_in_memory(tmp_path: Path, suite: SuiteConfig) -> None:
    models = [f"{__name__}:{name}" for name in ("Held", "AlsoHeld")]
    found = compare_models(config(tmp_path, suite, models))
    assert (found.read_as, found.contamination) == ({}, {})
    assert not Held.alive


@pytest.mark.parametrize("last", ["/nowhere", "json:Nothing", "owner/not_in_the_cache"])
def test_the_last_model_is_missed_before_the_first_is_scored(
    tmp_path: Path, suite: SuiteConfig, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Held, "score", None)
    with pytest.raises(UserError, match=f"compare: .*{last}"):
        compare_models(config(tmp_path, suite, [f"{__name__}:Held", last]))
