"""The whole command on a tiny fixed model: every number that it writes, to 1e-5.

RMEXP_WRITE_GOLDEN=1 writes the file anew; look at what has moved before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bench_rows import rewardbench_rows

from rmexp.cli import main
from rmexp.reward.model import load_base_model

GOLDEN = Path(__file__).with_name("golden_rewardbench.json")
def test_the_command_gives_the_golden_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_base_model(
        "tiny", seed=0, template="chat", max_length=256, cache_dir=tmp_path / "cache"
    )
    model.save(tmp_path / "model")
    Path("bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rewardbench_rows()))
    main(
        [
            "evaluate",
            "model.path=model",
            "suite=rewardbench",
            "suite.path=bench.jsonl",
            "out=result.json",
            f"cache_dir={tmp_path / 'cache'}",
        ]
    )
    shown = capsys.readouterr().out
    assert "RewardBench (ODC-BY" in shown
    assert "10 of 358, partial" in shown
    result = json.loads(Path("result.json").read_text())
    reference = json.loads(Path("results/rewardbench-partial/eval-set/model.json").read_text())
    by_row = json.loads(Path("results/rewardbench-partial/eval-set-scores/model.json").read_text())
    found = {
        "metrics": result["metrics"],
        "figures": {f["name"]: [f["estimate"], f["low"], f["high"]] for f in result["figures"]},
        "reference": {k: v for k, v in reference.items() if isinstance(v, float)},
        "scores_chosen": by_row["scores_chosen"],
        "scores_rejected": by_row["scores_rejected"],
    }
    if os.environ.get("RMEXP_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for part, numbers in golden.items():
        if isinstance(numbers, list):
            assert found[part] == pytest.approx(numbers, abs=1e-5)
            continue
        assert found[part].keys() == numbers.keys()
        for name, value in numbers.items():
            assert found[part][name] == pytest.approx(value, abs=1e-5), name
    assert len(golden["reference"]) == 23
    assert by_row["results"] == [
        int(c > r) for c, r in zip(by_row["scores_chosen"], by_row["scores_rejected"], strict=True)
    ]
    assert by_row["text_chosen"][0][-1] == {"role": "assistant", "content": rewardbench_rows()[0]["chosen"]}
