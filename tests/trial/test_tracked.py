"""Commands that are runs of their own at the tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from wandb_files import run_of, table_of

from rmexp.cli import main

WORDS = ["rules=safety100", "rules.ids=[answers_alarming_wording,offers_safe_alternative]"]
WORDS += ["rater=custom", "rater.target=word_rater:WordRater", "data.limit=20", "part=all"]
WANDB = ["tracker=wandb", "tracker.mode=offline"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [*WORDS, f"cache_dir={tmp_path / 'cache'}"]


def test_a_rating_job_tells_how_far_it_is_and_what_it_came_to(words: list[str]) -> None:
    main(["rate", *words, *WANDB, "shards=2"])
    (directory,) = Path("outputs/rate").iterdir()
    run = run_of(directory)
    assert run["job_type"] == "rate"
    assert run["exit_code"] == 0
    assert run["config"]["rater.target"] == "word_rater:WordRater"
    assert [row["ratings/done"] for row in run["history"]][-1] == 40
    assert (run["summary"]["ratings/rated"], run["summary"]["state"]) == (40, "complete")


def test_labels_are_a_run_with_readable_tables(words: list[str]) -> None:
    main(["label", *words, *WANDB, "r=1", "out=labels.jsonl"])
    (directory,) = Path("outputs/label").iterdir()
    run = run_of(directory)
    assert run["job_type"] == "label"
    assert run["summary"]["labels/kept"] == len(Path("labels.jsonl").read_text().splitlines())
    assert len(table_of(directory, "labelled_pairs")) == 20


def test_a_failure_is_told_with_its_reason(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rate", *words, *WANDB, "rating.on_missing=error"])
    (directory,) = Path("outputs/rate").iterdir()
    run = run_of(directory)
    assert run["exit_code"] == 1
    assert "ratings are missing" in run["summary"]["reason"]


def test_without_a_tracker_nothing_is_written_beside_the_labels(words: list[str]) -> None:
    main(["label", *words, "r=1", "out=labels.jsonl"])
    assert not Path("outputs").exists()
