from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rmexp.cli import main
from rmexp.rating import RatingStore
from rmexp.rules import load_rule_set

RULES = ["answers_alarming_wording", "offers_safe_alternative"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["rules=safety100", f"rules.ids=[{','.join(RULES)}]", f"cache_dir={tmp_path / 'cache'}"]


def _rate(words: list[str], *more: str) -> None:
    custom = ["rater=custom", "rater.target=word_rater:WordRater", "data.limit=20", "part=all"]
    main(["rate", *words, *custom, *more])


def test_rating_is_paid_once_and_shards_add_up(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _rate(words, "shards=2", "shard=0")
    assert "rated 40, reused 0" in capsys.readouterr().out
    _rate(words)
    assert "rated 40, reused 40" in capsys.readouterr().out
    _rate(words)
    assert "rated 0, reused 80" in capsys.readouterr().out
    main(["ratings", "stats", "--cache-dir", str(tmp_path / "cache")])
    assert "80 ratings of 40 responses by 2 rules" in capsys.readouterr().out


def test_the_training_part_ends_where_trials_end_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    limit = ["part=train", "data.train_limit=3", "shards=2"]
    _rate(words, *limit, "shard=0")
    assert "rated 8, reused 0" in capsys.readouterr().out
    _rate(words, *limit, "shard=1")
    assert "rated 4, reused 0" in capsys.readouterr().out
    _rate(words, "part=test", "data.train_limit=1")
    assert "rated 28, reused 0" in capsys.readouterr().out


def test_ratings_travel_and_are_pruned(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _rate(words)
    here, there = str(tmp_path / "cache"), str(tmp_path / "there")
    main(["ratings", "export", "all.parquet", "--cache-dir", here])
    main(["ratings", "import", "all.parquet", "--cache-dir", there])
    _rate([*words[:-1], f"cache_dir={there}"], "rating.on_missing=error")
    assert "rated 0, reused 80" in capsys.readouterr().out
    prune = ["ratings", "prune", "--cache-dir", there]
    with pytest.raises(SystemExit):
        main([*prune, "--keep", "typo"])
    assert re.search(
        r"--keep typo: no such rater in .*; there are: word_rater [0-9a-f]+",
        capsys.readouterr().err,
    )
    with RatingStore(Path(there) / "ratings") as store:
        (rater,) = store.raters().values()
    main([*prune, "--keep", rater.short])
    assert "0 ratings deleted" in capsys.readouterr().out
    main([*prune, "--all"])
    assert "80 ratings deleted" in capsys.readouterr().out


def test_a_dry_run_tells_what_is_missing_and_asks_nothing(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = ["rater=openai", "rater.model=made", "data.limit=20", "part=all"]
    main(["rate", *words, *endpoint, "rater.price={input: 1000, output: 0}", "--dry-run"])
    said = capsys.readouterr().out
    assert "20 pairs, 2 rules: 80 ratings of 40 responses are missing" in said
    assert "80 requests for 80 ratings" in said
    assert "about $" in said
    _rate(words)
    main(["rate", *words, "rater=custom", "rater.target=word_rater:WordRater", "dry_run=true"])
    assert "are missing" in capsys.readouterr().out


def test_what_cannot_be_rated_is_reported_with_its_reason(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    dead = ["rater=openai", "rater.model=made", "rater.base_url=http://127.0.0.1:9/v1"]
    once = ["rater.attempts=1", "data.limit=3", "part=all", "unrated=unrated.jsonl"]
    main(["rate", *words, *dead, *once])
    said = capsys.readouterr()
    assert "could not be rated 12" in said.out
    assert "not rated: connection x12" in said.out
    assert "rate: 12 of 12" in said.err
    rows = [json.loads(line) for line in Path("unrated.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert {row["reason"] for row in rows} == {"connection"}
    assert {row["rule"] for row in rows} == set(RULES)


def test_a_probe_is_taught_checked_and_used(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = load_rule_set("safety100", ids=RULES)
    rows = [
        {"prompt": e.prompt, "response": f"{e.response} {n}", "labels": {rule.id: follows}}
        for rule in rules
        for follows, examples in ((True, rule.follows), (False, rule.breaks))
        for e in examples
        for n in ("", "Really.")
    ]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["rater", "fit", *words, "labels=labels.jsonl", "out=mine", "encoder=tiny_encoder"])
    assert "6 follow" in capsys.readouterr().out
    probe = ["rater=probe", "rater.path=mine", "rater.encoder=tiny_encoder"]
    main(["rater", "check", *words, *probe, "labels=labels.jsonl"])
    assert "mean AUC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["rate", "shards=2", "shard=2"], "shard"),
        (["rater", "teach"], "rater fit"),
        (["rater", "fit", "labels=nowhere.jsonl"], "labels: no such file"),
        (["ratings", "export"], "take a FILE"),
        (["ratings", "prune"], "--keep"),
        (["ratings", "prune", "--keep", "x", "--all"], "or --all"),
        (["ratings", "stats", "--cache-dir", "nowhere"], "no rating store"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
