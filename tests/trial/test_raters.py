from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rmexp.errors import UserError
from rmexp.preferences import prompt_from_text
from rmexp.rating.probe import fit_probe
from rmexp.rating.rater import Item
from rmexp.trial import assembly, reading
from rmexp.trial.record import TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import LabellingConfig, trial_config

RULES = ["answers_alarming_wording", "no_invented_intent", "offers_safe_alternative"]


def _plain(tmp_path: Path, rater: dict) -> dict:
    return {
        "r": 1,
        "epochs": 1,
        "data": {"limit": 30},
        "rules": {"ids": RULES},
        "rater": {"encoder": "tiny_encoder", **rater},
        "model": {"name": "tiny"},
        "trainer": {"threads": 1},
        "tracker": {"kind": "none"},
        "cache_dir": str(tmp_path / "cache"),
    }


def _trial(tmp_path: Path, rater: dict) -> TrialRecord:
    config = trial_config(_plain(tmp_path, rater))
    record = run_trial(config, directory=tmp_path / "trial")
    assert record.state == "complete", record.reason + record.traceback
    # What drift is told by is the rater's own identity, though no model is loaded for it.
    named = assembly.rater_fingerprint(config, assembly.rule_set(config))
    assert named.to_plain() == record.fingerprints["rater"]
    return record


def test_a_trial_with_the_exemplar_rater(tmp_path: Path) -> None:
    assert _trial(tmp_path, {"kind": "exemplar"}).metrics["ratings/rated"] > 0


def test_a_trial_with_a_probe(tmp_path: Path) -> None:
    config = trial_config(_plain(tmp_path, {"kind": "exemplar"}))
    rules = assembly.rule_set(config)
    examples = [(e, 1.0) for rule in rules for e in rule.follows]
    examples += [(e, 0.0) for rule in rules for e in rule.breaks]
    items = [Item(prompt_from_text(e.prompt), e.response) for e, _ in examples]
    labels = np.tile([[label] for _, label in examples], (1, len(rules)))
    encoder = assembly.sentence_encoder("tiny_encoder", tmp_path / "cache")
    fit_probe(items, rules.rules, labels, encoder).save(tmp_path / "probe")
    record = _trial(tmp_path, {"kind": "probe", "path": str(tmp_path / "probe")})
    assert record.metrics["ratings/rated"] == 2 * record.metrics["train/pairs"] * len(RULES)
    assert record.fingerprints["rater"]["kind"] == "probe"


def test_a_trial_with_recorded_ratings(tmp_path: Path) -> None:
    pairs = reading.read_pairs(trial_config(_plain(tmp_path, {"kind": "exemplar"})).data).pairs
    rows = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "response": response,
            "ratings": {rule: (len(response) + i) % 7 / 3.5 - 1 for i, rule in enumerate(RULES)},
        }
        for pair in pairs
        for response in (pair.response_a, pair.response_b)
    ]
    path = tmp_path / "ratings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = _trial(tmp_path, {"kind": "recorded", "path": str(path)})
    assert record.fingerprints["rater"]["kind"] == "recorded"
    columns, samples = (record.report["labelled_pairs"][k] for k in ("columns", "rows"))
    first = dict(zip(columns, samples[0], strict=True))
    rule = first["critical rules"].split(" (")[0]
    i = RULES.index(rule)
    given = [(len(first[f"response {side}"]) + i) % 7 / 3.5 - 1 for side in "AB"]
    assert first["critical rules"] == f"{rule} ({given[0]:+.2f} / {given[1]:+.2f})"


def test_a_trial_with_a_causal_model(tmp_path: Path) -> None:
    record = _trial(tmp_path, {"kind": "causal_lm", "model": "tiny"})
    assert record.metrics["ratings/rated"] == 2 * record.metrics["train/pairs"] * len(RULES)
    assert record.fingerprints["rater"]["kind"] == "causal_lm"


def test_a_spending_limit_needs_a_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    plain = {"kind": "openai", "model": "m", "max_cost": 1.0, "encoder": "minilm"}
    config = LabellingConfig(rater=plain, cache_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"rater\.price"):
        assembly.rater(config, assembly.rule_set(config))
