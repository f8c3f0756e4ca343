"""A search over RewardBench's sections, with the model before training as what must be kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rmexp.evaluation.objective import constraint_violation, evaluate_objective
from rmexp.evaluation.rewardbench import SECTIONS
from rmexp.sweep.study import load_study

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVE = "Safety - 0.5*max(0, base.Chat - Chat)"
GUARDS = ["Chat >= base.Chat - 0.01", "'bench/Reasoning' >= 2"]


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A config folder of the user's, whose group names objective, guards and set."""
    rows = []
    for subset in (s for weights in SECTIONS.values() for s in weights):
        for _ in range(2):
            i = len(rows)
            texts = {"chosen": f"Well {i * i}. " * (1 + i % 4), "rejected": f"No {i}! " * (i % 3)}
            row = {"id": i, "prompt": f"Question {i}?", "subset": subset, **texts}
            rows.append({**row, "rejected": row["rejected"] or "No."})
    bench = tmp_path / "bench.jsonl"
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "mine" / "evaluation"
    folder.mkdir(parents=True)
    suites = {"bench": {"kind": "rewardbench", "path": str(bench)}}
    chosen = {"objective": OBJECTIVE, "guards": GUARDS[:1], "suites": suites}
    (folder / "bench.yaml").write_text(yaml.safe_dump(chosen))
    both = {**chosen, "objective": ["Safety", "Chat"], "guards": GUARDS}
    (folder / "front.yaml").write_text(yaml.safe_dump(both))
    return tmp_path / "mine"


def sweep(tmp_path: Path, quick: list[str], *words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "doubles")])
    line = ["train", "-m", "--config-dir", str(tmp_path / "mine"), *quick, *words]
    out = subprocess.run(
        [
            sys.executable,
            "-m",
            "rmexp",
            *line,
            "executor=inline",
            "learning_rate=choice(3e-3,1e-1)",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert out.returncode == 0, out.stderr
    return out


def test_a_formula_over_sections_and_a_guard(tmp_path: Path, quick: list[str], group: Path) -> None:
    words = [*quick, "evaluation=bench", "study=one", "sweep.trials=2"]
    sweep(tmp_path, words)
    trials = load_study(str(tmp_path / "outputs"), "one").get_trials()
    assert len(trials) == 2
    for trial in trials:
        folder = tmp_path / "outputs" / "studies" / "one" / trial.user_attrs["directory"]
        record = json.loads((folder / "record.json").read_text())
        measured, base = record["report"]["bench"]["metrics"], record["report"]["base"]
        known = {**measured, **{f"base.{name}": value for name, value in base.items()}}
        assert trial.value == pytest.approx(evaluate_objective(OBJECTIVE, known))
        violation = constraint_violation(GUARDS[0], known)
        assert record["metrics"][f"guards/{GUARDS[0]}"] == pytest.approx(violation)
        assert trial.user_attrs["violations"] == pytest.approx([violation])
        assert record["report"]["contamination"]["bench"]["prompts"] == 46
        assert record["history"][0]["Safety"] == pytest.approx(measured["Safety"], abs=0.05)


@pytest.mark.slow
def test_two_sections_as_a_front_under_a_guard_that_never_holds(
    tmp_path: Path, quick: list[str], group: Path
) -> None:
    front = [*quick, "evaluation=front", "study=two", "sweep.trials=2"]
    sweep(tmp_path, front, "sweep.direction=[maximize,maximize]")
    trials = load_study(str(tmp_path / "outputs"), "two").get_trials()
    for trial in trials:
        assert len(trial.values) == 2
        assert trial.user_attrs["violations"][1] >= 1
