from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweep_doubles import FakeExecutor, controller_of
from word_rater import WordRater

from rmexp.errors import DriftError, UserError
from rmexp.fingerprint import file_sha256, fingerprint
from rmexp.sweep.drift import (
    config_drift,
    content_drift,
    found_today,
    refuse_drift,
    refuse_other_content,
)
from rmexp.sweep.launch import _refuse_study_range
from rmexp.sweep.rerun import refuse_drift as check_rerun
from rmexp.sweep.space import Space, build_space
from rmexp.sweep.study import StudyFolder
from rmexp.trial import assembly
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import TrialConfig

RULES = (
    "rules:\n- id: one\n  sentence: The response is polite.\n  category: own\n"
    "- id: two\n  sentence: The response is short.\n  category: own\n"
)
BASE: dict[str, Any] = {
    "gamma": 1.0,
    "r": 5,
    "data": {"limit": None, "split": {"train": 0.7}},
    "rules": {"name": "core20", "ids": None},
    "tracker": {"kind": "wandb"},
    "cache_dir": "/a",
}


def _space(**expressions: str) -> Space:
    return build_space(
        expressions, [], lambda group: ["core20", "safety100"] if group == "rules" else []
    )[0]


def _study() -> optuna.Study:
    study = optuna.create_study(study_name="s")
    refuse_drift(study, BASE, _space(gamma="choice(0,1)", epochs="range(1,4)"))
    return study


@pytest.mark.parametrize(
    ("config", "space", "message"),
    [
        ({"data": {"limit": 40, "split": {"train": 0.7}}}, {}, r"data\.limit was null, now 40"),
        ({"r": 3}, {}, r"r was 5, now 3"),
        ({}, {"r": "choice(1,3)"}, r"r was 5, now searched"),
        ({}, {"gamma": "choice(0,2)"}, r"searched in choice\(0, 1\), now in choice\(0, 2\)"),
        ({}, {"epochs": "interval(1,4)"}, r"epochs was searched in whole numbers 1 to 3, now in"),
        ({}, {"epochs": "tag(log,range(1,4))"}, r"now in whole numbers 1 to 3, on a log scale"),
        ({}, {"epochs": "choice(1,2)"}, r"whole numbers 1 to 3, now in choice\(1, 2\)"),
    ],
)
def test_a_study_refuses_what_would_make_its_trials_incomparable(
    config: dict[str, Any], space: dict[str, str], message: str
) -> None:
    ranges = {"gamma": "choice(0,1)", "epochs": "range(1,4)", **space}
    with pytest.raises(UserError, match=rf"study 's': .*{message}.*study=NAME"):
        refuse_drift(_study(), {**BASE, **config}, _space(**ranges))


def test_a_key_that_has_come_to_rmexp_since_is_no_drift_at_its_default() -> None:
    space = _space(gamma="choice(0,1)", epochs="range(1,4)")
    refuse_drift(_study(), {**BASE, "seed": 0}, space)
    with pytest.raises(UserError, match="seed was 0, now 1"):
        refuse_drift(_study(), {**BASE, "seed": 1}, space)
    # Not there because it was searched then is another thing.
    default = TrialConfig(cache_dir="").epochs
    with pytest.raises(UserError, match=f"now {default}"):
        refuse_drift(_study(), {**BASE, "epochs": default}, _space(gamma="choice(0,1)"))


def test_where_things_are_kept_and_wider_numeric_ranges_are_free() -> None:
    study = _study()
    moved = {**BASE, "cache_dir": "/b", "tracker": {"kind": "none"}, "gamma": 7.0}
    moved |= {"trainer": {"threads": 2, "frozen_cache_gb": 1.0}}  # old studies know no such key
    before = study.user_attrs
    refuse_drift(study, moved, _space(gamma="choice(0,1)", epochs="range(1,9)"))
    assert study.user_attrs == before  # what the study was made with stays noted


def test_a_group_that_is_searched_may_differ_below() -> None:
    study = optuna.create_study(study_name="s")
    space = _space(rules="choice(core20,safety100)")
    refuse_drift(study, BASE, space)
    refuse_drift(study, {**BASE, "rules": {"name": "safety100", "ids": None}}, space)
    assert not any(key.startswith("rules") for key in study.user_attrs["config"])
    with pytest.raises(UserError, match=r"data\.limit"):
        refuse_drift(study, {**BASE, "data": {"limit": 1, "split": {"train": 0.7}}}, space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep.space.r=choice(1,9)", r"'r=choice\(1,9\)'"),
        ("+sweep.space.r=choice(1,9)", r"'r=choice\(1,9\)'"),
        ("study=choice(a,b)", "belongs to the whole study"),
        ("sweep.trials=range(1,3)", "belongs to the whole study"),
    ],
)
def test_a_range_for_the_studys_own_keys_is_refused(text: str, message: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([text])
    with pytest.raises(UserError, match=message):
        _refuse_study_range(override)


def test_a_range_for_a_trials_key_becomes_a_dimension() -> None:
    texts = ["r=choice(1,9)", "sweep=starter", "rules=choice(core20,safety100)"]
    overrides = OverridesParser.create().parse_overrides(texts)
    for override in overrides:
        _refuse_study_range(override)
    options = {"rules": ["core20", "safety100"]}
    space, fixed = build_space({}, overrides, lambda group: options.get(group, []))
    assert [d.key for d in space.dimensions] == ["r", "rules"]
    assert [o.input_line for o in fixed] == ["sweep=starter"]


def _pairs(path: Path, flip: bool = False) -> None:
    sides = ("b", "a") if flip else ("a", "b")
    rows = [
        {
            "prompt": f"p{i}",
            "response_a": f"x{i}",
            "response_b": f"y{i}",
            "preference": sides[i % 2],
        }
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class FileRater(WordRater):
    """A rater that is what a file says."""

    def __init__(self, path: str):
        super().__init__()
        self.fingerprint = fingerprint("file_rater", weights=file_sha256(Path(path)))


class FileSelector:
    """A Rule Adapter that is what a file says."""

    def __init__(self, path: str):
        self.fingerprint = fingerprint("selection", adapter=file_sha256(Path(path)))


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudyFolder, optuna.Study]:
    """A study of one trial that read everything from files of ours."""
    _pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "model").mkdir()
    for name in ("rater", "adapter", "model/model.safetensors", "model/config.json"):
        (tmp_path / name).write_text("as it was")
    config = TrialConfig(
        cache_dir="c",
        r=1,
        data={"source": "files", "path": str(tmp_path / "pairs.jsonl")},
        rules={"name": "own", "path": str(tmp_path / "rules.yaml")},
        rater={
            "kind": "custom",
            "target": f"{__name__}:FileRater",
            "options": {"path": str(tmp_path / "rater")},
        },
        model={"name": str(tmp_path / "model")},
        selection={"strategy": "adapter", "path": str(tmp_path / "adapter")},
    )
    monkeypatch.setattr(assembly, "selector", lambda c, rules: FileSelector(c.selection.path))
    controller, study, _ = controller_of(tmp_path, FakeExecutor(), trials=1)
    controller.run()
    folder = controller.folder
    refuse_other_content(folder, study)  # a record that tells nothing refuses nothing
    record = TrialRecord.read(folder.trial(0))
    prints = {name: now().to_plain() for name, now in found_today(config).items()}
    replace(record, config=config.to_plain(), fingerprints=prints).write(folder.trial(0))
    return folder, study


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pairs.jsonl", "pairs changed"),
        ("rules.yaml", r"rules changed \(0000:one\)"),
        ("rater", r"rater changed \(weights\)"),
        ("adapter", r"adapter changed \(adapter\)"),
        ("model/model.safetensors", r"model changed \(model\.safetensors\)"),
    ],
)
def test_what_changed_under_the_same_name_is_refused(
    stored, tmp_path: Path, file: str, message: str
) -> None:
    folder, study = stored
    refuse_other_content(folder, study)
    record = TrialRecord.read(folder.trial(0))
    assert content_drift(record) == []
    if file == "pairs.jsonl":
        _pairs(tmp_path / file, flip=True)
    else:
        (tmp_path / file).write_text(RULES.replace("polite", "kind"))
    with pytest.raises(UserError, match=rf"study 's': {message}.* since trial 0.*study=NAME"):
        refuse_other_content(folder, study)
    (line,) = content_drift(record)
    assert re.search(message, line)


def test_a_config_key_that_has_come_since_is_named(stored) -> None:
    folder, _ = stored
    record = TrialRecord.read(folder.trial(0))
    assert config_drift(record) == []
    older = json.loads(json.dumps(record.config))
    del older["trainer"]["compile"]
    older["epochs"] = "2"  # read as a number
    lines = [
        'config key epochs was "2", now 2',
        "config key trainer.compile has come since, now false",
    ]
    assert config_drift(replace(record, config=older)) == lines
    with pytest.raises(DriftError, match=r"trainer\.compile has come since.*--on-drift warn"):
        check_rerun(folder, 0, replace(record, config=older), "refuse")


def test_a_config_key_that_has_gone_is_named(stored) -> None:
    folder, _ = stored
    record = TrialRecord.read(folder.trial(0))
    older = {**record.config, "momentum": 0.9}
    with pytest.raises(DriftError, match=r"cannot read its stored config: momentum.*made it"):
        check_rerun(folder, 0, replace(record, config=older), "warn")
