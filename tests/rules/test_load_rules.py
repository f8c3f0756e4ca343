"""Reading rules of one's own, with errors by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rmexp.errors import UserError
from rmexp.rules import Example, Rule, load_rule_set, load_rules

OWN = """\
rules:
  - id: polite
    sentence: The response is polite.
    category: tone
    applies_when: The user is rude.
    follows:
      - prompt: Hey!
        response: Good day.
    breaks:
      - prompt: Hey!
        response: Get lost.
  - id: short
    sentence: The response fits on one line.
    category: tone
"""


def own(tmp_path: Path, text: str = OWN) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_rules_of_ones_own(tmp_path: Path) -> None:
    polite, short = load_rule_set("mine", own(tmp_path))
    assert polite == Rule(
        "polite",
        "The response is polite.",
        "tone",
        "The user is rude.",
        (Example("Hey!", "Good day."),),
        (Example("Hey!", "Get lost."),),
    )
    assert (short.applies_when, short.follows, short.breaks) == ("", (), ())


def test_some_rules_only_in_the_order_asked(tmp_path: Path) -> None:
    rules = load_rule_set("mine", own(tmp_path), ["short", "polite"])
    assert rules.ids == ["short", "polite"]
    assert load_rule_set("core20", ids=["no_insults"]).ids == ["no_insults"]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("id: short", "id: polite", 12, "'polite' stands already at line 2"),
        ("    category: tone\n    applies", "    applies", 2, "lacks 'category'"),
        ("applies_when", "applies_if", 5, "'applies_if'; did you mean 'applies_when'"),
        ("sentence: The response", "sentense: The response", 3, "did you mean 'sentence'"),
        ("category: tone", "colour: red", 4, "unknown key 'colour'; use id, sentence"),
        ("sentence: The response is polite.", "sentence: ''", 3, "'sentence' must be a text"),
        ("sentence: The response is polite.", "sentence: [a]", 3, "'sentence' must be a text"),
        ("        response: Good day.", "        reply: Good day.", 7, "'prompt' and 'response'"),
        ("    follows:\n      - prompt", "    follows:\n        prompt", 7, "list of examples"),
        ("  - id: short", "  - short", 13, "not YAML"),
        ("    category: tone\n    applies", "    id: x\n    applies", 4, "'id' stands twice"),
        ("rules:", "rule:", 1, "list under 'rules:'"),
        ("The response is polite.", '"The response', 3, "not YAML"),
    ],
)
def test_a_mistake_is_named_by_line(
    old: str, new: str, line: int, message: str, tmp_path: Path
) -> None:
    assert old in OWN
    path = own(tmp_path, OWN.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        load_rules(path)
    text = str(error.value)
    assert text.startswith(f"{path}:{line}:"), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the rules"),
        (b"", "the file is empty"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"rules: \x00", "not YAML"),
        (b"rules: []", "no rule in it"),
        (b"rules: 3", "list under 'rules:'"),
        (b"- a", "key: value"),
    ],
)
def test_a_file_that_holds_no_rules(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_rules(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(UserError, match=r"rules\.name: no rule set 'core2'.*core20"):
        load_rule_set("core2")
    with pytest.raises(UserError, match=r"no rule 'no_insult' .*did you mean 'no_insults'"):
        load_rule_set("core20", ids=["no_insult"])
    with pytest.raises(UserError, match=r"no rule 'zzzz'.*; known: .* and 80 more$"):
        load_rule_set("safety100", ids=["zzzz"])
    with pytest.raises(UserError, match="'no_insults' stands twice"):
        load_rule_set("core20", ids=["no_insults", "no_insults"])


def test_identity_is_content_and_order_not_names(tmp_path: Path) -> None:
    rules = load_rule_set("mine", own(tmp_path))
    assert rules.fingerprint == load_rule_set("other", own(tmp_path)).fingerprint
    changed = load_rule_set("mine", own(tmp_path, OWN.replace("Get lost.", "Go away.")))
    assert changed.fingerprint != rules.fingerprint
    turned = load_rule_set("mine", own(tmp_path), ["short", "polite"])
    assert turned.fingerprint != rules.fingerprint
    renamed = load_rules(own(tmp_path, OWN.replace("id: polite", "id: kind")))
    assert renamed[0].fingerprint == load_rules(own(tmp_path))[0].fingerprint


def test_a_relative_path_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial keeps it as it was given, and may be run again from another folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"looked in {tmp_path}")):
        load_rule_set("mine", Path("mine.yaml"))
