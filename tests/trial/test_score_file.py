"""rmexp score: the rows of a file come back with their scores, or one line says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from rmexp import cli, load_reward_model
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.sources import resolve_model
from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
from rmexp.preferences.rows import responses_from_row
from rmexp.reward.model import RewardModel
from rmexp.trial.schema import checked
from rmexp.trial.score import ScoreConfig, score_file

DIALOGUE = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "Why?"},
]
ROWS: list[dict[str, Any]] = [
    {"id": 7, "prompt": "Hi", "response": "Hello."},
    {"id": 8, "prompt": DIALOGUE, "response": "Because light scatters."},
    {"id": 9, "prompt": "Hi", "response": "Hello."},
]


class NaNScorer:
    """NaN where the response says so."""

    def score(self, prompts, responses):
        return np.array([float("nan") if "NaN" in r else 1.0 for r in responses])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    classifier = load_sequence_classifier(resolve_model("tiny", folder / "cache"), seed=0)
    template = TextTemplate(classifier.tokenizer, name="auto", max_length=64, causal=True)
    return RewardModel(classifier, template, base="tiny").save(folder / "model")


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(source: Path, out: Path, **model: Any) -> ScoreConfig:
    model = model or {"target": "plain_scorer:LengthScorer"}
    return checked(ScoreConfig, {"model": model, "in": str(source), "out": str(out)})


def test_the_command_adds_a_column_of_the_models_own_scores(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "in.jsonl", ROWS)
    cli.main(["score", f"model.path={saved}", f"in={source}", f"out={tmp_path / 'out.jsonl'}"])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "score"} for row in rows] == ROWS
    prompts = [responses_from_row(row, "here")[0] for row in ROWS]
    expected = load_reward_model(saved).score(prompts, [row["response"] for row in ROWS])
    assert [row["score"] for row in rows] == pytest.approx(list(expected), abs=1e-5)
    assert rows[0]["score"] == rows[2]["score"] != rows[1]["score"]
    said = capsys.readouterr()
    assert "3 scores" in said.out
    assert "score: 2 of 2" in said.err  # distinct texts
    assert "warning" not in said.err


def test_texts_that_are_cut_are_told(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, {"id": 10, "prompt": "Hi", "response": "word " * 60}]
    source = written(tmp_path / "in.jsonl", rows)
    cli.main(["score", f"model.path={saved}", f"in={source}", f"out={tmp_path / 'out.jsonl'}"])
    assert "warning: 1 of 3 texts are longer than 64 tokens and were cut" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("names", [("response_a", "response_b"), ("chosen", "rejected")])
def test_a_pair_gets_a_score_a_side(names: tuple[str, str], suffix: str, tmp_path: Path) -> None:
    rows = [{"prompt": "q", names[0]: "x" * 100, names[1]: "x" * 300}]
    out = tmp_path / f"out.{suffix}"
    found_scores = score_file(options(written(tmp_path / "in.jsonl", rows), out))
    assert found_scores.scores.tolist() == [1.0, 3.0]
    assert found_scores.how is None
    columns = [f"score_{n.removeprefix('response_')}" for n in names]
    found = (
        pyarrow.parquet.read_table(out).to_pylist()
        if suffix == "parquet"
        else [json.loads(out.read_text())]
    )
    assert found == [{**rows[0], columns[0]: 1.0, columns[1]: 3.0}]


def test_a_table_with_gaps_keeps_every_column(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": "x"}, {"prompt": "q", "response": "y", "note": "late"}]
    out = tmp_path / "out.parquet"
    score_file(options(written(tmp_path / "in.jsonl", rows), out))
    assert pyarrow.parquet.read_table(out)["note"].to_pylist() == [None, "late"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q"}, "in.jsonl:2: missing field 'response'"),
        ({"response": "x"}, "in.jsonl:2: missing field 'prompt'"),
        ({"prompt": "q", "respnse": "x"}, "in.jsonl:2: .*'respnse': did you mean 'response'"),
        ({"prompt": "q", "response_a": "x"}, "in.jsonl:2: missing field 'response_b'"),
        ({"prompt": "q", "response": ["x", "y"]}, "in.jsonl:2: 'response' must be a text"),
        ({"prompt": [{"role": "user"}], "response": "x"}, "in.jsonl:2: 'prompt' must be"),
        ({"prompt": "q", "response": "x", "score": 1}, "in.jsonl:2: there is a column 'score'"),
        ({"prompt": "q", "response": "\ud800"}, "in.jsonl:2: a text is not valid Unicode"),
        ([1], "in.jsonl:2: expected a JSON object"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(row: Any, message: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"prompt": "q", "response": "x"}, row])
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        score_file(options(source, tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_nan_is_refused_by_row(saved: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": "x"}, {"prompt": "q", "response": "NaN"}]
    source, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(UserError, match=r"1 of 2 scores are NaN.* in\.jsonl:2 \(score\)"):
        score_file(options(source, out, target="test_score_file:NaNScorer"))

    broken = load_reward_model(saved)
    with torch.no_grad():
        broken.classifier.inner.score.weight.fill_(float("nan"))
    broken.save(tmp_path / "broken")
    with pytest.raises(UserError, match=r"2 of 2 scores are NaN.* in\.jsonl:1 \(score\)"):
        score_file(options(source, out, path=str(tmp_path / "broken")))
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("out", "message"),
    [("out.csv", "out: use a file"), ("in.jsonl", "out: is the file"), ("no/x.jsonl", "no folder")],
)
def test_a_place_that_cannot_be_written_is_told_first(
    out: str, message: str, tmp_path: Path
) -> None:
    source = written(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(UserError, match=message):
        score_file(options(source, tmp_path / out, target="unheard:Of"))


def test_a_column_of_several_types_needs_jsonl(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(UserError, match=r"column 'prompt' holds several types.*\.jsonl"):
        score_file(options(source, tmp_path / "out.parquet"))
