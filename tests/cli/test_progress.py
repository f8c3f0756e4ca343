"""Bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from quick_config import quick_config
from rich.console import Console

from rmexp.cli import main
from rmexp.cli.progress import Steps
from rmexp.trial.run import run_trial
from rmexp.trial.schema import trial_config


def walk(terminal: bool, every: float) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    with Steps(every, console) as steps:
        steps("read")
        steps("train")
        for done in range(1, 5):
            steps.advance(done, 4)
        steps.advance_in("evaluate", 1, 2)
        steps.advance_in("evaluate", 2, 2)
    return out.getvalue()


def test_elsewhere_than_on_a_terminal_a_step_says_its_beginning_and_its_end() -> None:
    lines = walk(terminal=False, every=1000).splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "read ...",
        "train ...",
        "train: 4 of 4",
        "evaluate ...",
        "evaluate: 2 of 2",
    ]


def test_a_long_step_says_now_and_then_how_far_it_is() -> None:
    lines = walk(terminal=False, every=0).splitlines()
    assert lines[1:3] == ["train ...", "train: 1 of 4"]
    assert re.fullmatch(r"train: 2 of 4, \S+ a second, about \d+ s left", lines[3])


def test_a_terminal_has_a_bar_a_step() -> None:
    text = walk(terminal=True, every=0)
    assert "train" in text
    assert "4/4" in text
    assert "2/2" in text
    assert "1 of 4" not in text


def test_a_failure_leaves_its_bar_where_it_was() -> None:
    out = io.StringIO()

    def fail() -> None:
        with Steps(0, Console(file=out, force_terminal=True, width=100)) as steps:
            steps("train")
            steps.advance(1, 4)
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        fail()
    assert "1/4" in out.getvalue()
    assert "4/4" not in out.getvalue()


def test_rating_training_and_scoring_tell_how_far_they_are(tmp_path: Path) -> None:
    trainer = {"threads": 1, "batch_pairs": 8}
    config = trial_config(quick_config(tmp_path, epochs=2, trainer=trainer))
    told: dict[str, list[tuple[int, int]]] = {}
    steps: list[str] = []

    def begin(step: str) -> None:
        steps.append(step)
        told[step] = []

    record = run_trial(
        config,
        directory=tmp_path / "trial",
        progress=begin,
        advance=lambda done, total: told[steps[-1]].append((done, total)),
    )
    assert record.state == "complete"
    train = record.report["split"]["train"]
    assert told["rate"][-1] == (train * 2 * 2, train * 2 * 2)
    batches = -(-int(record.metrics["train/pairs"]) // 8)
    assert told["train"] == [(n, 2 * batches) for n in range(1, 2 * batches + 1)]
    texts = 2 * record.report["split"]["validation"]
    assert told["evaluate"][-1] == (texts, texts)


WORDS = ["rules=safety100", "rules.ids=[answers_alarming_wording,offers_safe_alternative]"]
WORDS += ["rater=custom", "rater.target=word_rater:WordRater", "data.limit=20"]


@pytest.mark.parametrize("command", [["label", "out=labels.jsonl"], ["rules", "audit"]])
def test_a_command_that_rates_on_its_way_says_so(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main([*command, *WORDS, "r=1", f"cache_dir={tmp_path / 'cache'}"])
    said = capsys.readouterr().err
    assert "rate ..." in said
    assert re.search(r"rate: (\d+) of \1", said)
