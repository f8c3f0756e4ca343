"""`rmexp prepare`: the folder holds all that a machine without a network needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rmexp.backbone.sources import resolve_model
from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.trial.prepare import prepare
from rmexp.trial.record import TrialRecord
from rmexp.trial.schema import trial_config

ROOT = Path(__file__).resolve().parents[2]
RULES = """
rules:
  - id: short
    sentence: The response is short.
    category: style
    follows: [{prompt: "Q?", response: "Yes."}]
    breaks: [{prompt: "Q?", response: "That is a long story which begins so."}]
  - id: kind
    sentence: The response is kind.
    category: style
    follows: [{prompt: "Q?", response: "Gladly."}]
    breaks: [{prompt: "Q?", response: "Go away."}]
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Data and rules of a user's own."""
    rows = [
        f'{{"prompt": "Q{n}?", "response_a": "Yes {n}.", "response_b": "No, never {n}.", '
        f'"preference": "{"ab"[n % 2]}"}}\n'
        for n in range(40)
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pairs.jsonl").write_text("".join(rows))
    (tmp_path / "mine" / "rules.yaml").write_text(RULES)
    return {
        "r": 1,
        "epochs": 1,
        "data": {"source": "files", "path": str(tmp_path / "mine" / "pairs.jsonl")},
        "rules": {"name": "file", "path": str(tmp_path / "mine" / "rules.yaml")},
        "rater": {"kind": "exemplar", "encoder": "tiny_encoder"},
        "model": {"name": "tiny"},
        "trainer": {"threads": 1},
        "tracker": {"kind": "none"},
        "cache_dir": str(tmp_path / "cache"),
    }


def test_what_a_config_names_is_gathered(files: dict[str, Any], tmp_path: Path) -> None:
    suite = {"kind": "file", "path": files["data"]["path"], "name": "x", "licence": "MIT"}
    config = trial_config({**files, "evaluation": {"suites": {"mine": suite}}})
    found = prepare(config, tmp_path / "out", ["model=tiny"], {})
    assert set(found.moved) == {
        "data.path",
        "rules.path",
        "evaluation.suites.mine.path",
        "model.name",
        "rater.encoder",
    }
    for key, path in found.moved.items():
        assert (tmp_path / "out" / path).exists(), key
    assert (tmp_path / "out" / found.moved["data.path"]).name == "pairs.jsonl"
    assert any(note.startswith("ratings: none") for note in found.notes)
    assert list((tmp_path / "out" / "cache" / "tokens").glob("*/shard-*"))
    script = (tmp_path / "out" / "run.sh").read_text()
    assert str(tmp_path) not in script
    assert "HF_HUB_OFFLINE=1" in script
    assert found.line == f"sh {tmp_path}/out/run.sh"


def test_rows_of_the_hub_are_taken_along(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    from rmexp.preferences.read import HUB_ROWS, json_rows
    from rmexp.trial import reading

    rows = [row for _, row in json_rows(Path(files["data"]["path"]))]
    monkeypatch.setattr(datasets, "load_dataset", lambda *name, **of: rows)
    config = trial_config({**files, "data": {"source": "hub", "name": "owner/pairs"}})
    here = reading.read_pairs(config.data)
    found = prepare(config, tmp_path / "out", [], {})
    assert "data.path" not in found.moved
    assert HUB_ROWS not in os.environ
    monkeypatch.setattr(datasets, "load_dataset", None)
    monkeypatch.setenv(HUB_ROWS, str(tmp_path / "out" / "hub_rows"))
    assert reading.read_pairs(config.data).fingerprint == here.fingerprint


@pytest.mark.parametrize(
    ("change", "swept", "message"),
    [
        ({}, {"model.name": "choice(a,b)"}, "the sweep searches model.name, but model.name"),
        ({}, {"rater": "choice(a,b)"}, "the sweep searches rater, but rater.encoder"),
        ({"model": {"name": "/nowhere"}}, {}, "model.name"),
        ({"rater": {"kind": "probe", "path": "/nowhere"}}, {}, "rater.path: no such file"),
        ({"model": {"name": "owner/nothing"}}, {}, "model.name: owner/nothing is not in the"),
    ],
)
def test_what_cannot_be_gathered_is_told_and_leaves_nothing(
    change: dict[str, Any],
    swept: dict[str, Any],
    message: str,
    files: dict[str, Any],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(trial_config({**files, **change}), tmp_path / "out", [], swept)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_is_left_alone(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        prepare(trial_config(files), tmp_path / "out", [], {})
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("words", [[], ["gamma=1"], ["folder", "--cfg", "job"], ["folder", "a=("]])
def test_the_command_needs_a_folder_and_plain_keys(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", *words])
    assert "prepare" in capsys.readouterr().err


def _hub_model(hub: Path, cache: Path) -> str:
    """A model as the hub's own cache holds it."""
    folder = hub / "models--owner--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in Path(resolve_model("tiny", cache)).iterdir():
        shutil.copy(file, folder / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return "owner/tiny"


@pytest.mark.slow
def test_a_prepared_folder_runs_elsewhere_without_network_or_cache(
    files: dict[str, Any], tmp_path: Path
) -> None:
    def run(*words: str, cwd: Path, **environment: str) -> str:
        cwd.mkdir(exist_ok=True)
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RMEXP_"))}
        out = subprocess.run(
            words,
            cwd=cwd,
            env={**plain, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
        )
        assert out.returncode == 0, out.stderr
        return out.stdout

    words = [
        *("data=jsonl", "data.path=pairs.jsonl", "rules=file", "rules.path=rules.yaml", "r=1"),
        *("rater.encoder=tiny_encoder", f"cache_dir={tmp_path / 'cache'}"),
    ]
    model = _hub_model(tmp_path / "hub", tmp_path / "cache")
    own = ["model=path", f"model.name={model}", "epochs=1", "tracker=none", "trainer.threads=1"]
    rmexp = [sys.executable, "-m", "rmexp"]
    hub = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run(*rmexp, "rate", *words, cwd=tmp_path / "mine")
    told = run(*rmexp, "prepare", str(tmp_path / "out"), *words, *own, cwd=tmp_path / "mine", **hub)
    assert told.splitlines()[-1] == f"sh {tmp_path / 'out' / 'run.sh'}"

    there = tmp_path / "another place"
    shutil.move(tmp_path / "out", there)
    for gone in ("cache", "hub", "mine"):
        shutil.rmtree(tmp_path / gone)
    run(
        *("sh", str(there / "run.sh"), "gamma=0.5"),
        cwd=tmp_path / "elsewhere",
        RMEXP=" ".join(rmexp),
        HOME=str(tmp_path / "empty"),
    )
    (directory,) = (tmp_path / "elsewhere" / "outputs" / "runs").iterdir()
    record = TrialRecord.read(directory)
    assert record.config["gamma"] == 0.5
    assert record.config["model"]["name"] == "owner/tiny"
    assert record.metrics["ratings/rated"] == 0
    assert record.metrics["ratings/reused"] > 0
    assert record.metrics["train/tokenised"] == 0
