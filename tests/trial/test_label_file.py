"""`rmexp label` and `rmexp rules audit`: what they write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexp.errors import UserError
from rmexp.fingerprint import fingerprint
from rmexp.preferences import read_starter
from rmexp.rating.rater import RatedBatch
from rmexp.trial.audit import AuditConfig, audit
from rmexp.trial.label import LabelConfig, label_file
from rmexp.trial.schema import checked

RULES = ["answers_alarming_wording", "no_invented_intent", "offers_safe_alternative"]


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    return {
        "r": 2,
        "data": {"limit": 40},
        "rules": {"ids": RULES},
        "rater": {"kind": "custom", "target": "word_rater:WordRater"},
        "cache_dir": str(tmp_path / "cache"),
    }


def label(plain: dict[str, Any], out: Path, **keys: Any) -> tuple[str, Any]:
    return label_file(checked(LabelConfig, {**plain, "out": str(out), **keys}))


@pytest.mark.parametrize(("suffix", "kind"), [(".parquet", "parquet"), (".jsonl", "json")])
def test_datasets_loads_the_columns_that_trl_takes(
    suffix: str, kind: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    import datasets

    out = tmp_path / f"labels{suffix}"
    report, labelled = label(plain, out)
    assert "read 40, kept 40" in report
    table = datasets.load_dataset(
        kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert len(table) == 40
    pairs = {pair.id: pair for pair in read_starter(limit=40).pairs}
    for row in table:
        pair = pairs[row["id"]]
        assert [(m["role"], m["content"]) for m in row["prompt"]] == [
            (m.role, m.content) for m in pair.prompt
        ]
        (chosen,), (rejected,) = row["chosen"], row["rejected"]
        assert chosen["role"] == rejected["role"] == "assistant"
        assert {chosen["content"], rejected["content"]} == {pair.response_a, pair.response_b}
        assert row["agrees_with_human"] == (chosen["content"] == pair.chosen)
        difference = np.subtract(row["chosen_ratings"], row["rejected_ratings"])
        assert row["margin"] == pytest.approx(difference.sum() / 4, abs=1e-6)
        assert row["margin"] > 0
        assert row["contradictory"] == bool((difference < 0).any() and (difference > 0).any())
        assert len(set(row["critical_rules"])) == 2
        assert set(row["critical_rules"]) <= set(RULES)
        assert row["category"] == pair.category
    assert labelled.metrics()["labels/agreement_with_human"] == pytest.approx(
        np.mean(table["agrees_with_human"])
    )


def test_labels_are_those_that_a_trial_trains_on(plain: dict[str, Any], tmp_path: Path) -> None:
    from rmexp.trial.schema import trial_config
    from rmexp.trial.steps import training_pairs

    out = tmp_path / "labels.jsonl"
    _, labelled = label(plain, out, part="train")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    trained = training_pairs(labelled.rated.pairs, labelled.labels, trial_config(plain))
    assert [row["id"] for row in rows] == trained.ids
    assert [row["chosen"][0]["content"] for row in rows] == trained.chosen
    assert len(rows) == 20


def test_pairs_without_a_human_preference_are_labelled_too(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    import pyarrow.parquet

    path, out = tmp_path / "mine.jsonl", tmp_path / "labels.parquet"
    rows = [{"prompt": f"p{n}", "response_a": "x", "response_b": "y"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "torn"}]))
    data = {"source": "files", "path": str(path), "on_invalid": "drop"}
    report, labelled = label(plain, out, data=data)
    assert "read 5, kept 4, dropped 1 missing field 'response_a' (first: mine.jsonl:5)" in report
    table = pyarrow.parquet.read_table(out)
    assert table["agrees_with_human"].to_pylist() == [None] * 4
    assert "labels/agreement_with_human" not in labelled.metrics()


class OddRater:
    """Rates both responses alike where the prompt's number is odd: a tie."""

    gives_relevance = True
    fingerprint = fingerprint("odd_rater")

    def rate(self, items: Any, rules: Any, wanted: Any = None) -> RatedBatch:
        odd = np.array([int(item.prompt[-1].content) % 2 for item in items])
        high = np.array([item.response == "x" for item in items])
        psi = np.where(odd, 0.25, high * 0.5)[:, None].repeat(len(rules), 1)
        return RatedBatch(psi.astype(np.float32), np.ones_like(psi, np.float32))


def test_ties_are_dropped_and_counted_or_given_to_a_side(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    path, out = tmp_path / "mine.jsonl", tmp_path / "labels.jsonl"
    rows = [{"prompt": str(n), "response_a": "x", "response_b": "y"} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {
        "rater": {"kind": "custom", "target": f"{__name__}:OddRater"},
        "data": {"source": "files", "path": str(path)},
    }
    _, labelled = label(plain, out, **keys)
    assert (labelled.metrics()["labels/kept"], labelled.metrics()["labels/dropped_ties"]) == (3, 2)
    assert len(out.read_text().splitlines()) == 3
    label(plain, out, **keys, selection={"tie": "b"})
    chosen = [json.loads(line)["chosen"][0]["content"] for line in out.read_text().splitlines()]
    assert chosen == ["x", "y", "x", "y", "x"]


class FilteredRater(OddRater):
    """Cannot rate the responses to prompt 0, nor those to prompt 2 by the last rule."""

    fingerprint = fingerprint("filtered_rater")

    def rate(self, items: Any, rules: Any, wanted: Any = None) -> RatedBatch:
        rated = super().rate(items, rules, wanted)
        for row, item in enumerate(items):
            for column, rule in enumerate(rules):
                if item.prompt[-1].content in ("02" if rule.id == RULES[-1] else "0"):
                    rated.psi[row, column] = np.nan
        return rated


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({}, ["4", "6", "2"]),
        ({"selection": {"strategy": "fixed", "rules": RULES[1:]}}, ["4", "6"]),
        ({"selection": {"strategy": "all"}}, ["4", "6"]),
    ],
)
def test_pairs_without_enough_ratings_are_left_out_and_counted(
    keys: dict[str, Any], kept: list[str], plain: dict[str, Any], tmp_path: Path
) -> None:
    path, out = tmp_path / "mine.jsonl", tmp_path / "labels.jsonl"

    def write(prompts: str) -> None:
        rows = [{"id": n, "prompt": n, "response_a": "x", "response_b": "y"} for n in prompts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    keys |= {
        "rater": {"kind": "custom", "target": f"{__name__}:FilteredRater"},
        "data": {"source": "files", "path": str(path)},
    }
    write("04621")
    report, labelled = label(plain, out, **keys)
    assert sorted(json.loads(line)["id"] for line in out.read_text().splitlines()) == sorted(kept)
    metrics = labelled.metrics()
    assert (metrics["labels/kept"], metrics["labels/dropped_ties"]) == (len(kept), 1)
    assert metrics["labels/dropped_unrated"] == 4 - len(kept)
    assert f"left out {4 - len(kept)} pairs not rated enough (first: 0)" in report
    write("0")
    with pytest.raises(UserError, match=r"none of 1 pairs has enough ratings .*\(pairs 0\)"):
        label(plain, out, **keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"out": "labels.csv"}, r"out: use a file that ends in \.parquet or \.jsonl"),
        ({"out": "/nowhere/labels.parquet"}, "out: no folder /nowhere"),
        ({"selection": {"tie": "half"}}, "selection.tie=half"),
        ({"data": {"source": "files", "path": "/nowhere.jsonl"}}, "data.path: no such file"),
        ({"rules": {"name": "core2"}}, "rules.name: no rule set 'core2'"),
        ({"part": "some"}, "part"),
        ({"epochs": 3}, "epochs: unknown key"),
    ],
)
def test_mistakes_are_told_before_anything_is_rated(
    keys: dict[str, Any], message: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        label_file(checked(LabelConfig, {**plain, "out": str(tmp_path / "x.parquet"), **keys}))
    assert not (tmp_path / "cache" / "ratings").exists()


def test_an_old_file_stays_until_the_new_one_is_whole(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rmexp.trial.label as room

    out = tmp_path / "labels.jsonl"
    out.write_text("old\n")

    def torn(labelled: Any) -> Any:
        yield {"id": "1"}
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "label_rows", torn)
    with pytest.raises(UserError, match=r"out: cannot write .* No space left"):
        label(plain, out)
    assert out.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_audit_writes_its_findings(plain: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    report, rules, result = audit(checked(AuditConfig, {**plain, "out": str(out)}))
    assert "read 40" in report
    assert (result.pairs, len(result.rules)) == (20, len(rules))
    found = json.loads(out.read_text())
    assert found["part"] == "train"
    assert found["data"]["kept"] == 40
    assert [rule["id"] for rule in found["rules"]] == RULES
    assert sum(rule["critical"] for rule in found["rules"]) == pytest.approx(2)


def test_an_audit_needs_every_rating(plain: dict[str, Any]) -> None:
    selection = {"strategy": "adapter", "path": "x"}
    with pytest.raises(UserError, match="an audit needs the ratings of every rule"):
        checked(AuditConfig, {**plain, "selection": selection})


def test_the_defaults_are_complete() -> None:
    for config in (AuditConfig, LabelConfig):
        given = {"cache_dir": "x", **({"out": "x.jsonl"} if config is LabelConfig else {})}
        plain = {**config.defaults(), **given}
        assert checked(config, plain) == checked(config, given)


def test_the_statistics_of_rules_by_hand(plain: dict[str, Any], tmp_path: Path) -> None:
    _, labelled = label(plain, tmp_path / "x.jsonl")
    ratings, labels = labelled.rated.ratings, labelled.labels
    told = {row[0]: row[1:] for row in labelled.rule_statistics()}
    assert sum(pairs for pairs, _, _ in told.values()) == 2 * len(labels)
    assert [row[1] for row in labelled.rule_statistics()] == sorted(
        (row[0] for row in told.values()), reverse=True
    )
    for i, rule in enumerate(labelled.rated.rules.ids):
        rows = [n for n in range(len(labels)) if i in labelled.critical[n]]
        apart = [abs(float(ratings.psi_a[n, i]) - float(ratings.psi_b[n, i])) / 2 for n in rows]
        speaks = [
            (ratings.psi_a[n, i] > ratings.psi_b[n, i]) == bool(labels.preferred[n]) for n in rows
        ]
        assert told[rule][0] == len(rows)
        assert told[rule][1] == pytest.approx(np.mean(apart), abs=1e-6)
        assert told[rule][2] == pytest.approx(np.mean(speaks))
