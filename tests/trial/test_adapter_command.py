"""A Rule Adapter from training to trials: only the rules that it chooses are rated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexp.errors import UserError
from rmexp.trial import assembly, reading
from rmexp.trial.adapter import AdapterConfig, check, train
from rmexp.trial.label import LabelConfig, label_file
from rmexp.trial.labelled import rate
from rmexp.trial.record import TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import checked, trial_config

RULES = ["answers_alarming_wording", "no_invented_intent", "offers_safe_alternative"]


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    return {
        "r": 1,
        "data": {"limit": 40},
        "rules": {"ids": RULES},
        "rater": {
            "kind": "custom",
            "target": "word_rater:WordRater",
            "encoder": "tiny_encoder",
            "options": {"counter": str(tmp_path / "asked")},
        },
        "cache_dir": str(tmp_path / "cache"),
    }


def _train(plain: dict[str, Any], out: Path, **keys: Any) -> Any:
    own = {
        "model": {"name": "tiny", "max_length": 128},
        "epochs": 1,
        "threads": 1,
        "tracker": {"kind": "none"},
        "output_dir": str(out.parent / "outputs"),
    }
    return train(checked(AdapterConfig, {**plain, **own, "out": str(out), **keys}))


def _with_adapter(plain: dict[str, Any], tmp_path: Path, **keys: Any) -> dict[str, Any]:
    """Another cache, so that nothing is rated yet."""
    return {
        **plain,
        "selection": {"strategy": "adapter", "path": str(tmp_path / "adapter")},
        "cache_dir": str(tmp_path / "fresh"),
        **keys,
    }


def _trial(plain: dict[str, Any], directory: Path, **keys: Any) -> TrialRecord:
    own = {
        "epochs": 1,
        "model": {"name": "tiny"},
        "trainer": {"threads": 1},
        "tracker": {"kind": "none"},
    }
    record = run_trial(trial_config({**plain, **own, **keys}), directory=directory)
    assert record.state == "complete", record.reason + record.traceback
    return record


def test_a_trial_rates_only_what_the_adapter_chose(plain: dict[str, Any], tmp_path: Path) -> None:
    _train(plain, tmp_path / "adapter")
    (tmp_path / "asked").unlink()
    record = _trial(_with_adapter(plain, tmp_path), tmp_path / "1")
    pairs = record.report["split"]["train"]
    assert 0 < record.metrics["ratings/rated"] <= 2 * pairs * 1
    asked = sum(int(line) for line in (tmp_path / "asked").read_text().split())
    assert asked == record.metrics["ratings/rated"]
    assert record.fingerprints["adapter"]["parts"]["strategy"] == "adapter"
    # The next trial finds the chosen ratings in the store, and rates only further ones.
    again = _trial(_with_adapter(plain, tmp_path, learning_rate=1e-3), tmp_path / "2")
    assert (again.metrics["ratings/rated"], again.metrics["ratings/reused"]) == (0, asked)
    more = _trial(_with_adapter(plain, tmp_path, r=2), tmp_path / "3")
    assert more.metrics["ratings/rated"] + more.metrics["ratings/reused"] <= 2 * pairs * 2
    assert more.metrics["ratings/reused"] == asked
    assert more.fingerprints["adapter"] != record.fingerprints["adapter"]


def test_a_label_is_that_of_the_chosen_rules(plain: dict[str, Any], tmp_path: Path) -> None:
    from rmexp.adapter.model import load_rule_adapter
    from rmexp.rating.rater import Item

    _train(plain, tmp_path / "adapter")
    own = _with_adapter(plain, tmp_path, out=str(tmp_path / "labels.jsonl"), part="train")
    _, labelled = label_file(checked(LabelConfig, own))
    assert labelled.rated.ratings.rated <= 2 * len(labelled.rated.pairs)
    rules = labelled.rated.rules
    encoder = assembly.sentence_encoder("tiny_encoder", tmp_path / "cache")
    adapter = load_rule_adapter(tmp_path / "adapter", rules, encoder)
    best = adapter.logits(labelled.rated.pairs).argmax(axis=1)
    assert np.array_equal(labelled.critical[:, 0], best)
    rater = assembly.rater(checked(LabelConfig, own), rules)
    for i, pair in enumerate(labelled.rated.pairs):
        items = [Item(pair.prompt, pair.response_a), Item(pair.prompt, pair.response_b)]
        psi = rater.rate(items, rules.rules).psi[:, best[i]]
        assert labelled.labels.preferred[i] == int(psi[0] > psi[1])
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [row["critical_rules"] for row in rows] == [[RULES[b]] for b in best]


@pytest.mark.parametrize("strategy", ["random", "fixed"])
def test_other_choices_before_rating_pay_for_no_more(
    strategy: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    selection = {"strategy": strategy, "rules": RULES[:1] if strategy == "fixed" else None}
    own = {**plain, "selection": selection, "out": str(tmp_path / "x.jsonl")}
    _, labelled = label_file(checked(LabelConfig, own))
    assert labelled.rated.ratings.rated <= 2 * 40


def test_the_report_is_on_prompts_never_seen(plain: dict[str, Any], tmp_path: Path) -> None:
    _, report = _train(plain, tmp_path / "adapter")
    assert (report.part, report.r, report.pairs, report.seen) == ("validation", 1, 6, 0)
    assert set(report.quality) == {"adapter", "most frequent rules", "relevance only"}
    assert set(report.gain) == {"most frequent rules", "relevance only"}
    for measures in report.quality.values():
        assert all(0 <= interval.estimate <= 1 for interval in measures.values())
    kept = json.loads((tmp_path / "adapter" / "quality.json").read_text())
    assert kept["quality"]["adapter"]["precision"]["estimate"] == pytest.approx(
        report.quality["adapter"]["precision"].estimate
    )
    # Under another split, prompts of the training are left out and counted.
    data = {"limit": 40, "split": {"seed": 1}}
    path = str(tmp_path / "adapter")
    other = check(checked(AdapterConfig, {**plain, "data": data, "path": path, "part": "test"}))
    assert other.seen > 0
    assert other.pairs + other.seen == 14


def test_it_trains_on_the_ratings_of_the_store(plain: dict[str, Any], tmp_path: Path) -> None:
    config = checked(AdapterConfig, plain)
    rules = assembly.rule_set(config)
    rate(config, reading.read_pairs(config.data).pairs, rules)
    asked = (tmp_path / "asked").read_text()
    _train(plain, tmp_path / "adapter", rating={"on_missing": "error"})
    assert (tmp_path / "asked").read_text() == asked


def test_training_is_tracked_as_an_adapter(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {"logged": []}

    class Recorder:
        def log(self, metrics: dict[str, float], **step: Any) -> None:
            seen["logged"].append((metrics, step))

        def table(self, name: str, columns: list[str], rows: list[Any]) -> None:
            seen[name] = rows

        def finish(self, state: str, reason: str, summary: dict[str, Any]) -> None:
            seen["finish"] = (state, reason, summary)

    def tracker(config: Any, info: Any) -> Recorder:
        seen["info"] = info
        return Recorder()

    monkeypatch.setattr(assembly, "tracker", tracker)
    _train(plain, tmp_path / "adapter", epochs=2)
    assert seen["info"].job_type == "adapter"
    assert [step["step"] for _, step in seen["logged"]] == [1, 2]
    assert {row[0] for row in seen["adapter_quality"]} >= {"adapter", "relevance only"}
    assert seen["finish"][0] == "complete"
    assert "adapter/label_agreement" in seen["finish"][2]
    with pytest.raises(UserError, match="NaN or infinite"):
        _train(plain, tmp_path / "b", epochs=3, learning_rate=1e30, warmup_steps=0)
    assert seen["finish"][0] == "failed"
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gamma": 0.5}, "gamma: 0.5, but the Rule Adapter in .* was trained for 1; use gamma=1"),
        ({"rules": {"ids": RULES[:2]}}, r"selection.path: .* rule set 'core20' \(3 rules\), not"),
        ({"selection": {"strategy": "adapter", "path": "/nowhere"}}, "selection.path: /nowhere"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_at_once(
    keys: dict[str, Any], message: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    _train(plain, tmp_path / "adapter")
    with pytest.raises(UserError, match=message):
        run_trial(
            trial_config(_with_adapter(plain, tmp_path, **keys)), directory=tmp_path / "trial"
        )
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"selection": {"strategy": "random"}}, "selection.strategy=random: an adapter learns"),
        ({"model": {"name": "/nowhere"}}, "model.name"),
        ({"device": "abacus"}, "device: 'abacus' cannot be used"),
        ({"out": "/nowhere/adapter"}, "out: no folder"),
        ({"out": "/"}, "out: / exists already"),
    ],
)
def test_mistakes_are_told_before_anything_is_rated(
    keys: dict[str, Any], message: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        _train(plain, Path(keys.pop("out", tmp_path / "adapter")), **keys)
    assert not (tmp_path / "asked").exists()


class RefusingRater:
    """Cannot rate one response by any rule."""

    gives_relevance = True

    def __init__(self) -> None:
        from word_rater import WordRater

        self._inner = WordRater()
        self.fingerprint = self._inner.fingerprint

    def rate(self, items: Any, rules: Any, wanted: Any = None) -> Any:
        rated = self._inner.rate(items, rules, wanted)
        rated.psi[[item.response.startswith("I") for item in items]] = np.nan
        return rated


def test_pairs_that_cannot_be_rated_are_left_out(plain: dict[str, Any], tmp_path: Path) -> None:
    rater = {**plain["rater"], "target": f"{__name__}:RefusingRater", "options": {}}
    report, _ = _train(plain, tmp_path / "adapter", rater=rater)
    assert "left out of training" in report
    own = _with_adapter(plain, tmp_path, rater=rater, out=str(tmp_path / "x.jsonl"))
    _, labelled = label_file(checked(LabelConfig, own))
    assert labelled.unrated
    pairs = labelled.rated.pairs
    assert not any(r.startswith("I") for p in pairs for r in (p.response_a, p.response_b))


@pytest.mark.slow
def test_a_sweep_over_r_with_an_adapter(
    quick: list[str], plain: dict[str, Any], tmp_path: Path
) -> None:
    import os
    import subprocess
    import sys

    _train(plain, tmp_path / "adapter")
    words = [w for w in quick if w != "r=1"]
    words += ["r=choice(1,2)", "selection=adapter", f"selection.path={tmp_path / 'adapter'}"]
    words += [
        "rater.encoder=tiny_encoder",
        "sweep.trials=2",
        "sweep.sampler.kind=grid",
        "executor=inline",
    ]
    out = subprocess.run(
        [sys.executable, "-m", "rmexp", "train", "-m", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    records = [TrialRecord.read(p.parent) for p in tmp_path.glob("outputs/**/record.json")]
    assert sorted(record.config["r"] for record in records) == [1, 2]
    for record in records:
        known = record.metrics["ratings/rated"] + record.metrics["ratings/reused"]
        assert 0 < known <= 2 * 20 * record.config["r"]
