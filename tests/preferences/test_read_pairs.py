"""Reading pairs: every shape that data sets have, and every mistake by its place."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rmexp.errors import UserError
from rmexp.preferences import Message, Pair, read_files, read_hub, read_starter
from rmexp.preferences.rows import ColumnMap, pair_from_row

PLAIN = {"prompt": "Hi?", "response_a": "Yes.", "response_b": "No.", "preference": "b"}
USER, BOT = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}
OTHER = {"role": "assistant", "content": "No."}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(row: Any, **options: Any) -> Pair:
    return pair_from_row(row, "x.jsonl:1", **options)


def test_our_own_shape_keeps_sides_and_what_is_said_of_the_pair() -> None:
    pair = read({**PLAIN, "id": 0, "category": "c", "tags": ["t"], "kind": "k", "refusal": "a"})
    assert pair == Pair("0", (Message("user", "Hi?"),), "Yes.", "No.", "b", "c", ("t",), "k", "a")
    assert (pair.chosen, pair.rejected) == ("No.", "Yes.")


def test_without_a_preference_there_is_no_chosen() -> None:
    pair = read({k: v for k, v in PLAIN.items() if k != "preference"})
    assert pair.preference is None
    with pytest.raises(ValueError, match=r"x\.jsonl:1 has no human preference"):
        _ = pair.chosen


def test_one_tag_as_a_text_is_one_tag() -> None:
    assert read({**PLAIN, "tags": "phishing"}).tags == ("phishing",)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [BOT], "rejected": [OTHER]},
        {"chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"prompt": "Hi?", "chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {
            "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.",
            "rejected": "\n\nHuman: Hi?\n\nAssistant: No.",
        },
        {
            "prompt": "Hi?",
            "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.",
            "rejected": "Human: Hi?\n\nAssistant: No.",
        },
        {"prompt": "\n\nHuman: Hi?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Hi?", "response": ["Yes.", "No."]},
    ],
)
def test_every_shape_with_the_better_one_first(row: dict[str, Any]) -> None:
    pairs = [read(row, seed=seed) for seed in range(40)]
    assert {(p.prompt, p.chosen, p.rejected) for p in pairs} == {
        ((Message("user", "Hi?"),), "Yes.", "No.")
    }
    assert {p.preference for p in pairs} == {"a", "b"}, "the order gives the answer away"


def test_a_dialogue_of_several_turns_is_cut_before_its_last_answer() -> None:
    text = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:"
    pair = read({"chosen": f"{text} Four", "rejected": f"{text} Five"})
    roles = [(m.role, m.content) for m in pair.prompt]
    assert roles == [("user", "One"), ("assistant", "Two"), ("user", "Three")]
    assert pair.chosen == "Four"


def test_the_coin_is_fair_and_hangs_on_seed_and_content_alone() -> None:
    rows = [{"prompt": f"p{n}", "response": ["safe", "not"]} for n in range(400)]
    sides = [read(row).preference for row in rows]
    assert 160 < Counter(sides)["a"] < 240
    assert sides[::-1] == [read(row).preference for row in rows[::-1]]
    assert sides != [read(row, seed=1).preference for row in rows]


def test_columns_of_other_names() -> None:
    columns = ColumnMap({"prompt": "question", "response_a": "r0", "response_b": "r1"})
    row = {"question": "Hi?", "r0": "Yes.", "r1": "No.", "preference": "A"}
    assert read(row, columns=columns).chosen == "Yes."
    assert (
        read(
            {"q": "Hi?", "both": ["Yes.", "No."]},
            columns=ColumnMap({"prompt": "q", "response": "both"}),
        ).chosen
        == "Yes."
    )
    with pytest.raises(UserError, match=r"data\.columns\.promt: no such field"):
        ColumnMap({"promt": "question"})


BROKEN = {
    "missing field 'prompt'": {"text": "Hi?"},
    "missing field 'response_a'": {"prompt": "Hi?"},
    "missing field 'response_b'": {"prompt": "Hi?", "response_a": "Yes."},
    "missing field 'rejected'": {"prompt": "Hi?", "chosen": "Yes."},
    "the row has 'promt': did you mean 'prompt'": {
        "promt": "Hi?",
        "response_a": "Yes.",
        "response_b": "No.",
    },
    "the row has 'respnse_a': did you mean 'response_a'": {
        "prompt": "Hi?",
        "respnse_a": "Yes.",
        "response_b": "No.",
    },
    "the row has 'choosen': did you mean 'chosen'": {
        "prompt": "Hi?",
        "choosen": "Y",
        "rejectd": "N",
    },
    "the row has 'promt'": {"promt": "Hi?", "chosen": "Yes.", "rejected": "No."},
    "identical": {**PLAIN, "response_b": " Yes. "},
    "prompt is empty": {**PLAIN, "prompt": " \n"},
    "'response_a' is empty": {**PLAIN, "response_a": ""},
    "'preference' must be": {**PLAIN, "preference": 1},
    "expected a JSON object": ["Hi?", "Yes.", "No."],
    "'prompt' must be a text or a list": {**PLAIN, "prompt": 3},
    "content of a message must be a text": {**PLAIN, "prompt": [{"role": "user", "content": None}]},
    "unknown role 'human'": {**PLAIN, "prompt": [{"role": "human", "content": "Hi?"}]},
    "must end with a user message": {**PLAIN, "prompt": [USER, BOT]},
    "has no message": {**PLAIN, "prompt": []},
    "'response_b' must be a text or one": {**PLAIN, "response_b": [USER, BOT]},
    "must hold two texts": {"prompt": "Hi?", "response": ["Yes.", "No.", "Maybe."]},
    "different prompts": {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.",
        "rejected": "\n\nHuman: Ho?\n\nAssistant: No.",
    },
    "has no '.*Assistant:' turn": {"chosen": "Yes.", "rejected": "No."},
    "ends with an empty assistant turn": {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.",
        "rejected": "\n\nHuman: Hi?\n\nAssistant:",
    },
    "'chosen' ends with a human turn": {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Why?",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: No.",
    },
    "'rejected' is a whole dialogue": {
        "prompt": "Hi?",
        "chosen": "Yes.",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: No.",
    },
    "must start with": {"chosen": "So: \n\nAssistant: Yes.", "rejected": "So: \n\nAssistant: No."},
    "end with a human turn": {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Ho.\n\nAssistant: Yes.",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: Ho.\n\nAssistant: No.",
    },
    "must end with an assistant message": {"chosen": [BOT, USER], "rejected": [BOT, USER]},
    "must be a list of": {"chosen": [1, 2], "rejected": [1, 3]},
    "not valid Unicode": {**PLAIN, "response_a": "\ud83d"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_row_is_named_by_file_and_line(message: str, tmp_path: Path) -> None:
    good = {**PLAIN, "prompt": "Another?"}
    path = jsonl(tmp_path / "mine.jsonl", good, BROKEN[message])
    with pytest.raises(UserError, match=message) as error:
        read_files(path)
    assert str(error.value).startswith("mine.jsonl:2: ")
    assert "\n" not in str(error.value)
    data = read_files(path, on_invalid="drop")
    assert (data.report.read, data.report.kept, sum(data.report.dropped.values())) == (2, 1, 1)


def test_the_report_counts_rows_of_one_reason_together(tmp_path: Path) -> None:
    rows = [{**PLAIN, "prompt": f"p{n}", "id": "same"} for n in range(6)]
    rows += [{**PLAIN, "preference": n} for n in range(3)]
    data = read_files(jsonl(tmp_path / "x.jsonl", *rows), on_invalid="drop")
    assert dict(data.report.dropped) == {
        "the id stands already": 5,
        '\'preference\' must be "a", "b" or absent': 3,
    }
    assert data.report.examples["the id stands already"] == [f"x.jsonl:{n}" for n in (2, 3, 4)]
    assert "read 9, kept 1" in str(data.report)
    with pytest.raises(UserError, match=r"x\.jsonl:2: the id stands already: 'same' at x\.jsonl:1"):
        read_files(tmp_path / "x.jsonl")


def test_a_pair_that_stands_twice_counts_once(tmp_path: Path) -> None:
    turned = {**PLAIN, "response_a": "No.", "response_b": "Yes.", "preference": "a"}
    opposed = {**PLAIN, "preference": "a"}
    data = read_files(jsonl(tmp_path / "x.jsonl", PLAIN, PLAIN, turned, opposed))
    assert len(data.pairs) == 1
    assert dict(data.report.dropped) == {
        "a pair that stands already": 2,
        "a pair that stands already with another preference": 1,
    }


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "x.json.gz", "x.parquet"])
def test_every_kind_of_file_gives_the_same_pairs(name: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": [USER], "response_a": "Yes.\u2028Really.", "response_b": "No.\x85"},
        {"prompt": [USER, BOT, USER], "response_a": "\U0001f600", "response_b": "é"},
    ]
    path = tmp_path / name
    if name == "x.parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        text = lines if "jsonl" in name else json.dumps(rows)
        raw = text.encode("utf-8-sig")
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    first, second = read_files(path).pairs
    assert (first.response_a, first.response_b) == ("Yes.\u2028Really.", "No.\x85")
    assert [m.role for m in second.prompt] == ["user", "assistant", "user"]
    assert second.response_a == "\U0001f600"


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl", {**PLAIN, "prompt": "second"})
    jsonl(tmp_path / "a.jsonl", {**PLAIN, "prompt": "first"})
    (tmp_path / "notes.txt").write_text("not pairs")
    assert [p.prompt[0].content for p in read_files(tmp_path).pairs] == ["first", "second"]
    assert len(read_files(tmp_path, limit=1).pairs) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", None, "x.jsonl: no such file"),
        ("x.jsonl", b" \n", "x.jsonl: the file is empty"),
        ("x.jsonl", b'{"prompt": "Hi?"', "x.jsonl:1: not JSON"),
        ("x.json", b"[\n{]", "x.json:2: not JSON"),
        ("x.json", b"{}", "x.json: expected a JSON list"),
        ("x.jsonl", b"\xff", "x.jsonl: cannot read it"),
        ("x.jsonl.gz", b"plain", "x.jsonl.gz: cannot read it"),
        ("x.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], "x.jsonl.gz: cannot read it"),
        ("x.parquet", b"plain", "x.parquet: not a Parquet file"),
        ("x.csv", b"prompt,a,b", "x.csv: unknown kind of file"),
        ("x.json", b"[]", "no usable pair"),
    ],
)
def test_a_file_that_cannot_be_read(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as error:
        read_files(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.jsonl, \.json or \.parquet file"):
        read_files(tmp_path)


def test_a_data_set_by_the_datasets_library(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    jsonl(folder / "train.jsonl", {"q": "Hi?", "chosen": [USER, BOT], "rejected": [USER, OTHER]})
    data = read_hub(str(folder), split="train", columns={"prompt": "q"})
    assert (data.pairs[0].chosen, data.pairs[0].rejected) == ("Yes.", "No.")
    assert data.pairs[0].id.endswith("[train]:0")
    with pytest.raises(UserError, match=r"data\.name: cannot load .* split 'other'"):
        read_hub(str(folder), split="other")


def test_a_limit_on_the_starter_pairs_is_reported() -> None:
    data = read_starter(limit=7)
    assert len(data.pairs) == data.report.kept == 7


def test_identity_is_content_and_order(tmp_path: Path) -> None:
    rows = [{**PLAIN, "prompt": "one"}, {**PLAIN, "prompt": "two"}]
    path = jsonl(tmp_path / "x.jsonl", *rows)
    whole = read_files(path).fingerprint
    assert read_files(path).fingerprint == whole
    assert read_files(jsonl(path, *rows[::-1])).fingerprint != whole
    assert read_files(jsonl(path, rows[0], {**rows[1], "preference": "a"})).fingerprint != whole


def test_real_dialogues(shared_data: Path) -> None:
    path = shared_data / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    with pytest.raises(UserError, match=r"harmless-base-test\.jsonl\.gz:\d+: "):
        read_files(path)
    data = read_files(path, on_invalid="drop")
    assert data.report.read == 2312
    assert data.report.kept == len(data.pairs) == 2303
    assert all(p.prompt[-1].role == "user" for p in data.pairs)
    assert not any("\n\nHuman:" in m.content for p in data.pairs for m in p.prompt)
    assert 1050 < sum(p.preference == "a" for p in data.pairs) < 1250


def test_real_tuples(shared_data: Path) -> None:
    data = read_files(shared_data / "pku-saferlhf" / "pairs-5k.json.gz")
    assert data.report.read == 5135
    assert data.report.kept == 3446
    assert data.report.dropped["a pair that stands already with another preference"] > 100
    assert 1600 < sum(p.preference == "a" for p in data.pairs) < 1850
