"""The commands as a user runs them: each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def rmexp(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "doubles")])
    return subprocess.run(
        [sys.executable, "-m", "rmexp", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    out = rmexp("--help", cwd=tmp_path)
    assert out.returncode == 0
    for command in ("train", "sweep", "best", "rerun", "studies", "evaluate", "doctor"):
        assert f"rmexp {command}" in out.stdout


def test_the_config_is_shown_without_importing_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from rmexp.cli import main\n"
        "try:\n    main(['train', '--cfg', 'job', 'gamma=0.5'])\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'pytorch_lightning', 'datasets', 'wandb', 'peft',\n"
        "             'optuna', 'pandas'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert out.returncode == 0, out.stderr
    assert "gamma: 0.5" in out.stdout
    assert "batch_pairs:" in out.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "unheard_of=1"), "unheard_of"),
        (("train", "gamma=-1"), "gamma"),
        (("train", "gamma=nan"), "gamma"),
        (("train", "epochs=many"), "epochs"),
        (("train", "r=21"), "r: 21 critical rules from a set of 20"),
        (("train", "rules.ids=[unheard_of]"), "unheard_of"),
        (("train", "model=unheard_of"), "unheard_of"),
        (("train", "model=path", "model.name=/nowhere"), "/nowhere"),
        (("train", "data=jsonl"), "data.path"),
        (("train", "data=jsonl", "data.path=/nowhere.jsonl"), "/nowhere.jsonl"),
        (("train", "output_dir=/proc/nowhere"), "output_dir"),
        (("train", "cache_dir=/proc/nowhere"), "cache_dir"),
        (("train", "peft=qlora"), "peft.kind=qlora needs trainer.accelerator=gpu"),
        (("train", "peft=qlora", "trainer=gpu"), "bitsandbytes: pip install"),
        (("train", "-m", "gamma=1"), "sweep.space"),
        (("train", "-m", "gamma=choice(-1,1)"), "gamma"),
        (("sweep", "sweep=unheard_of"), "unheard_of"),
        (("best", "unheard_of"), "unheard_of"),
        (("rerun", "unheard_of"), "unheard_of"),
        (("evaluate",), "model.path"),
        (("evaluate", "model.path=/nowhere", "suite=llmbar"), "suite.path"),
        (("evaluate", "model.path=/nowhere", "suite=unheard_of"), "unheard_of"),
        (("evaluate", "model.target=json:Nothing"), "model.target"),
        (("compare", "/nowhere"), "two models or more"),
        (("compare", "/nowhere", "/elsewhere"), "/nowhere"),
        (("compare", "unheard_of:3", "/elsewhere"), "unheard_of"),
        (("score", "model.path=/nowhere", "out=x.jsonl"), "in: missing"),
        (("score", "model.path=/nowhere", "in=/no.jsonl", "out=x.jsonl"), "/no.jsonl"),
        (("export", "out=x"), "model.path"),
        (("export", "model.path=/nowhere", "out=x"), "/nowhere"),
        (("export", "model.path=/nowhere", "out=/nowhere/x"), "out: no folder"),
        (("label",), "out"),
        (("label", "out=labels.csv"), ".parquet or .jsonl"),
        (("rules",), "rmexp rules audit"),
        (("rules", "audit", "part=some"), "part"),
        (("unheard_of",), "unheard_of"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    out = rmexp(*words, cwd=tmp_path, RMEXP_CACHE_DIR=str(tmp_path / "cache"))
    assert out.returncode == 2, out.stderr
    lines = out.stderr.strip().splitlines()
    assert len(lines) == 1, out.stderr
    assert lines[0].startswith("rmexp: ")
    assert message in lines[0]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("{\n", "pairs.jsonl:1: not JSON"),
        ('{"prompt": "q", "response_a": "x"}\n', "pairs.jsonl:1: missing field 'response_b'"),
        ('{"prompt": "q", "response_a": "x", "response_b": "x"}\n', "identical"),
        ('{"prompt": " ", "response_a": "x", "response_b": "y"}\n', "prompt is empty"),
    ],
)
def test_bad_data_is_one_line_that_names_the_place(
    tmp_path: Path, quick: list[str], text: str, message: str
) -> None:
    (tmp_path / "pairs.jsonl").write_text(text)
    words = [*quick, "data=jsonl", "data.path=pairs.jsonl"]
    out = rmexp("train", *words, cwd=tmp_path)
    assert out.returncode == 2, out.stderr
    assert message in out.stderr.strip().splitlines()[-1]
    assert "Traceback" not in out.stderr


def test_sweep_best_rerun_evaluate(tmp_path: Path, quick: list[str]) -> None:
    """The line that users walk, with warm worker processes."""
    words = [
        "-m",
        *quick,
        "study=walk",
        "sweep.trials=3",
        "r=choice(1,2)",
        "learning_rate=tag(log,interval(1e-4,1e-2))",
    ]
    out = rmexp("train", *words, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert "[3/3]" in out.stderr
    assert "test accuracy" in out.stdout
    assert "note: warmup_steps=10: a run of" in out.stdout
    assert "rmexp rerun walk" in out.stdout
    where = ["--output-dir", str(tmp_path / "outputs")]

    again = rmexp("train", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr

    best = json.loads(rmexp("best", "walk", "--json", *where, cwd=tmp_path).stdout)
    assert best["objective"] == best["metrics"]["validation/accuracy"]
    assert best["config"]["learning_rate"] == best["params"]["learning_rate"]
    test = best["test"]
    assert (best["test_unmeasured"], test["pairs"]) == ("", 14)
    assert f"test accuracy {test['accuracy']:.3f} (95% interval {test['accuracy_low']:.3f}" in (
        out.stdout
    )
    card = Path(best["directory"], "model", "README.md").read_text()
    assert f"study `walk`, trial {best['trial']}" in card

    rerun = rmexp("rerun", "walk", *where, cwd=tmp_path)
    assert rerun.returncode == 0, rerun.stderr
    assert re.search(
        r"equal to the last digit: objective and \d+ metrics, weights byte for byte", rerun.stdout
    )

    listed = rmexp("studies", *where, cwd=tmp_path)
    assert "walk" in listed.stdout

    scored = rmexp(
        "evaluate",
        f"model.path={best['directory']}/model",
        "out=result.json",
        cwd=tmp_path,
    )
    assert scored.returncode == 0, scored.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    stored = json.loads((Path(best["directory"]) / "test.json").read_text())
    # The record's data.limit=40, not the whole starter set.
    assert result["metrics"] == pytest.approx(stored["metrics"], abs=1e-6)
    assert test == stored["metrics"]
    assert "starter, part test, data and split of the trial's record: 14 rows" in scored.stdout

    compared = rmexp(
        "compare",
        f"walk:{best['trial']}",
        best["directory"],
        f"output_dir={tmp_path / 'outputs'}",
        "out=comparison.json",
        cwd=tmp_path,
    )
    assert compared.returncode == 0, compared.stderr
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert comparison["results"][f"walk:{best['trial']}"]["metrics"] == result["metrics"]
    (change,) = comparison["differences"].values()
    assert comparison["contamination"].keys() == comparison["results"].keys()
    assert "contamination: 0 of 14 prompts overlap" in compared.stdout
    # The same model twice: 14 pairs without a difference.
    assert change["accuracy"]["estimate"] == 0.0
    assert change["accuracy"]["high"] == pytest.approx(3.841459 / 17.841459, abs=1e-6)
    assert "Plotly.newPlot" in (tmp_path / "comparison.html").read_text()


def test_a_changed_rule_is_named_as_drift(tmp_path: Path, quick: list[str]) -> None:
    rules = tmp_path / "own.yaml"
    text = (
        "rules:\n- id: one\n  sentence: The response is polite.\n  category: own\n"
        "- id: two\n  sentence: The response is short.\n  category: own\n"
    )
    rules.write_text(text)
    words = [
        *[w for w in quick if not w.startswith("rules.")],
        "rules=file",
        f"rules.path={rules}",
        "study=drift",
        "sweep.trials=1",
        "executor=inline",
        "gamma=choice(0.5,1)",
    ]
    assert rmexp("train", "-m", *words, cwd=tmp_path).returncode == 0
    rules.write_text(text.replace("polite", "kind"))
    where = ["--output-dir", str(tmp_path / "outputs")]
    out = rmexp("rerun", "drift", *where, cwd=tmp_path)
    assert out.returncode == 2
    assert "rules changed (0000:one)" in out.stderr
    out = rmexp("rerun", "drift", "--on-drift", "warn", *where, cwd=tmp_path)
    assert "drift: rules changed" in out.stdout


def test_users_bring_their_own_groups_and_sweeps(tmp_path: Path, quick: list[str]) -> None:
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "careful.yaml").write_text("label_smoothing: 0.1\n")
    out = rmexp("train", "--config-dir", "mine", "loss=careful", "--cfg", "job", cwd=tmp_path)
    assert "label_smoothing: 0.1" in out.stdout
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(
        "sweep:\n  trials: 3\n  space:\n    gamma: choice(0, 1)\n"
    )
    out = rmexp("sweep", "sweep=own", "sweep.dry_run=true", *quick, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert "study own: 3 trials" in out.stdout
    assert not (tmp_path / "outputs").exists()


def test_doctor_says_what_is_there(tmp_path: Path) -> None:
    out = rmexp("doctor", cwd=tmp_path)
    assert "torch" in out.stdout
    assert out.returncode == 0
    assert "ready" in out.stdout
