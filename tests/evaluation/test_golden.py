"""The whole command on a tiny fixed model: every number that it writes, to 1e-5.

RMEXP_WRITE_GOLDEN=1 writes the files anew; look at what has moved before committing them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bench_rows import rewardbench2_rows, rewardbench_rows

from rmexp.cli import main
from rmexp.evaluation.rewardbench2 import SUBSETS, TIES, best_of_n_score, ties_score
from rmexp.reward.model import load_base_model


def evaluate(here: Path, benchmark: str, rows: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
    """The result, and the reference's two files."""
    model = load_base_model(
        "tiny", seed=0, template="chat", max_length=256, cache_dir=here / "cache"
    )
    model.save(here / "model")
    Path("bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(
        [
            "evaluate",
            "model.path=model",
            f"suite={benchmark}",
            "suite.path=bench.jsonl",
            "out=result.json",
            f"cache_dir={here / 'cache'}",
        ]
    )
    folder = Path("results") / f"{benchmark}-partial"
    files = (Path("result.json"), folder / "eval-set/model.json")
    paths = (*files, folder / "eval-set-scores/model.json")
    result, reference, by_row = (json.loads(path.read_text()) for path in paths)
    return result, reference, by_row


def compare(benchmark: str, found: dict[str, Any]) -> None:
    """Equal to the golden file, to 1e-5."""
    path = Path(__file__).with_name(f"golden_{benchmark}.json")
    if os.environ.get("RMEXP_WRITE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert found.keys() == golden.keys()
    for part, numbers in golden.items():
        if isinstance(numbers, list):
            assert found[part] == pytest.approx(numbers, abs=1e-5)
            continue
        assert found[part].keys() == numbers.keys()
        for name, value in numbers.items():
            assert found[part][name] == pytest.approx(value, abs=1e-5), name


def numbers(result: Any, reference: Any) -> dict[str, Any]:
    """What both benchmarks write."""
    return {
        "metrics": result["metrics"],
        "figures": {f["name"]: [f["estimate"], f["low"], f["high"]] for f in result["figures"]},
        "reference": {k: v for k, v in reference.items() if isinstance(v, float)},
    }


def test_rewardbench_1_gives_the_golden_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = rewardbench_rows()
    result, reference, by_row = evaluate(tmp_path, "rewardbench", rows)
    shown = capsys.readouterr().out
    assert "RewardBench (ODC-BY" in shown
    assert "10 of 358, partial" in shown
    found = numbers(result, reference)
    sides = {side: by_row[side] for side in ("scores_chosen", "scores_rejected")}
    compare("rewardbench", {**found, **sides})
    assert len(found["reference"]) == 23
    assert by_row["results"] == [
        int(c > r) for c, r in zip(by_row["scores_chosen"], by_row["scores_rejected"], strict=True)
    ]
    assert by_row["text_chosen"][0][-1] == {"role": "assistant", "content": rows[0]["chosen"]}


def test_rewardbench_2_gives_the_golden_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = rewardbench2_rows()
    result, reference, by_row = evaluate(tmp_path, "rewardbench2", rows)
    shown = capsys.readouterr().out
    assert "RewardBench 2 (ODC-BY" in shown
    assert "3 of 475, partial" in shown
    assert "6 of 102, partial" in shown
    found = numbers(result, reference)
    flat = [score for scores in by_row["scores"] for score in scores]
    compare("rewardbench2", {**found, "scores": flat})
    # The figures are those of the rules, from the scores that were written.
    assert found["reference"].keys() == SUBSETS.keys()
    tie_rows = []
    of_subset: dict[str, list[float]] = {}
    for row, scores, number in zip(rows, by_row["scores"], by_row["results"], strict=True):
        right = row["num_correct"]
        assert number == best_of_n_score(scores[:right], scores[right:])
        of_subset.setdefault(row["subset"], []).append(number)
        if row["subset"] == TIES:
            tie_rows.append((row["id"], scores, right))
    expected = {name: sum(own) / len(own) for name, own in of_subset.items()}
    expected[TIES] = ties_score(tie_rows) or 0.0
    assert found["reference"] == pytest.approx(expected)
    assert found["metrics"]["overall"] == pytest.approx(sum(expected.values()) / 6)
