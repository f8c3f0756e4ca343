"""rmexp evaluate with a model: how it scored, and what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_rows import rewardbench_rows

from rmexp.backbone.text import TemplateName
from rmexp.cli import main
from rmexp.reward.model import load_base_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RMEXP_CACHE_DIR", str(tmp_path / "cache"))
    Path("bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rewardbench_rows()))
    return tmp_path


def saved(here: Path, template: TemplateName = "chat", max_length: int = 256) -> Path:
    model = load_base_model(
        "tiny", seed=0, template=template, max_length=max_length, cache_dir=here / "cache"
    )
    return model.save(here / "model")


def evaluate(*words: str) -> dict[str, Any]:
    main(["evaluate", "out=result.json", *words])
    found: dict[str, Any] = json.loads(Path("result.json").read_text())
    return found


BENCH = ("suite=rewardbench", "suite.path=bench.jsonl")


def test_how_texts_were_scored_stands_in_the_result(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(here, "plain", 64)
    found = evaluate("model.path=model", *BENCH, "picture=page.html")["scored"]
    assert found["template"] == "plain"
    assert (found["max_length"], found["precision"]) == (64, "32")
    assert 0 < found["texts_cut"] < found["texts"] <= 2 * len(rewardbench_rows())
    line = (
        "scored with template plain, at most 64 tokens, float32: "
        f"{found['texts_cut']} of {found['texts']} texts cut"
    )
    said = capsys.readouterr()
    assert line in " ".join(said.out.split())
    assert line in Path("page.html").read_text()
    assert f"warning: {found['texts_cut']} of {found['texts']} texts are longer" in said.err
    assert "the reference reads 2048" in said.err

    longer = evaluate("model.path=model", *BENCH, "model.max_length=512")["scored"]
    assert longer == {**found, "max_length": 512, "texts_cut": 0, "responses_cut": 0}
    said = capsys.readouterr()
    assert f"0 of {found['texts']} texts cut" in " ".join(said.out.split())
    assert "warning" not in said.err


def test_a_class_of_ones_own_says_nothing_of_how_it_scored(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("model.target=plain_scorer:LengthScorer", *BENCH)["scored"] is None
    assert "scored with" not in capsys.readouterr().out


def test_a_class_may_stand_in_a_file_of_this_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The installed command does not have this folder on its path.
    monkeypatch.setattr("sys.path", [place for place in sys.path if place not in ("", str(here))])
    Path("scorer_of_here.py").write_text(
        "import numpy as np\n\nclass Longer:\n    def score(self, prompts, responses):\n"
        "        return np.array([float(len(text)) for text in responses])\n"
    )
    assert evaluate("model.target=scorer_of_here:Longer", *BENCH)["metrics"]
    Path("needs_more.py").write_text("import not_there_either\n")
    for target, message in (
        ("not_there:Longer", f"no module 'not_there': neither {here / 'not_there.py'} nor an"),
        ("not_there.deep:Longer", "no module 'not_there': neither"),
        ("needs_more:Longer", "'needs_more:Longer': No module named 'not_there_either'"),
        ("scorer_of_here", "'scorer_of_here' names no class; write package.module:Class"),
    ):
        for words in (["evaluate", f"model.target={target}"], ["compare", target, "b:B"]):
            if ":" not in target and words[0] == "compare":
                continue  # there it is the name of a folder
            capsys.readouterr()
            with pytest.raises(SystemExit):
                main(words)
            assert message in capsys.readouterr().err


PATH = "model.path=model"
CLASS = "model.target=plain_scorer:LengthScorer"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((PATH, *BENCH, "part=train"), "part=train is for suite=pairs, and suite.kind is rewardb"),
        ((PATH, *BENCH, "data=hh_rlhf"), "data is for suite=pairs, and suite.kind is rewardbench"),
        ((PATH, *BENCH, "data.limit=3"), "data is for suite=pairs"),
        ((PATH, *BENCH, "suite.seed=3"), "suite.seed is of a sample: give suite.rows"),
        ((PATH, "suite=hh", "results_dir=x"), "results_dir is for rewardbench, rewardbench2, pri"),
        ((PATH, "+model.options.sign=1"), "model.options are keyword arguments of model.target"),
        ((CLASS, "model.template=plain"), "model.template is for model.path"),
        ((CLASS, "model.max_length=64"), "model.max_length is for model.path"),
        ((CLASS, "model.precision=bf16"), "model.precision is for model.path"),
        ((CLASS, "model.device=cpu"), "model.device is for model.path"),
    ],
)
def test_a_key_without_effect_is_refused_by_name(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", *words])
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_defaults_that_are_spelt_out_are_no_mistake(here: Path) -> None:
    words = ("part=test", "data=starter", "suite.seed=0", "model.device=auto", "results_dir=null")
    assert evaluate(CLASS, *BENCH, *words)["metrics"] == evaluate(CLASS, *BENCH)["metrics"]


def test_keys_that_go_together_have_their_effect(here: Path) -> None:
    whole = evaluate(CLASS, *BENCH)
    sample = evaluate(CLASS, *BENCH, "suite.rows=30", "suite.seed=3", "results_dir=null")
    assert whole["sample_of"] is None
    assert sample["sample_of"] is not None
    turned = evaluate(CLASS, *BENCH, "+model.options.sign=-1", "results_dir=null")
    assert turned["metrics"]["Safety"] != whole["metrics"]["Safety"]


@pytest.mark.parametrize(
    ("stored", "asked", "written"),
    [
        ("chat", (), "tokenizer"),
        ("plain", (), "plain"),
        ("plain", ("model.template=chat",), "tokenizer"),
        ("chat", ("model.template=plain",), "plain"),
    ],
)
def test_the_reference_files_name_the_template_that_was_used(
    here: Path, stored: TemplateName, asked: tuple[str, ...], written: str
) -> None:
    saved(here, stored)
    evaluate("model.path=model", *BENCH, *asked)
    file = json.loads(Path("results/rewardbench-partial/eval-set/model.json").read_text())
    assert (file["chat_template"], file["model_type"]) == (written, "Seq. Classifier")


def test_the_reference_files_of_a_class_name_no_template(here: Path) -> None:
    evaluate(CLASS, *BENCH)
    folder = Path("results/rewardbench-partial/eval-set")
    file = json.loads((folder / "plain_scorer:LengthScorer.json").read_text())
    assert (file["chat_template"], file["model_type"]) == ("none", "Custom Classifier")
