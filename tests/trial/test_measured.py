from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plain_scorer import LengthScorer
from quick_config import quick_config

from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
from rmexp.evaluation.distribution import SCORE_DRIFT
from rmexp.evaluation.sets import evaluate_set, pairs_set
from rmexp.preferences import Pair, prompt_from_text
from rmexp.trial import measured
from rmexp.trial.assembly import check_before_anything_heavy
from rmexp.trial.evaluation_schema import EvaluationConfig
from rmexp.trial.measured import guard_violations, wants_base, wrongly_ranked
from rmexp.trial.reading import known_metrics
from rmexp.trial.run import run_trial
from rmexp.trial.schema import trial_config
from rmexp.views.evaluation import contamination_line, evaluation_picture


@pytest.fixture
def plain(tmp_path: Path) -> dict:
    rows = [
        {"id": f"s{i}", "prompt": f"Suite question {i}?", "response_a": "yes " * i + "a"}
        | {"response_b": "no", "preference": "a"}
        for i in range(1, 7)
    ]
    suite = tmp_path / "suite.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = {"kind": "file", "path": str(suite), "name": "Mine", "licence": "MIT"}
    return quick_config(tmp_path, evaluation={"suites": {"mine": mine}})


def test_suites_base_and_guards_in_a_trial(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = "'mine/accuracy' >= 2"
    plain["evaluation"] |= {
        "objective": "loss - base.loss",
        "guards": [guard, "accuracy <= base.accuracy + 1"],
    }
    record = run_trial(trial_config(plain), directory=tmp_path / "1")
    assert record.state == "complete", record.reason
    metrics = record.metrics
    assert record.objective == metrics["validation/loss"] - record.report["base"]["loss"]
    assert record.objective != 0
    assert metrics[f"guards/{guard}"] == 2 - metrics["mine/accuracy"]
    assert metrics["guards/accuracy <= base.accuracy + 1"] <= 0
    assert record.report["mine"]["suite"] == "Mine"
    assert record.report["mine"]["licence"] == "MIT"
    assert {"validation", "mine"} == record.report["drift"].keys()
    assert 0 <= record.report["drift"]["mine"]["score_distance"] <= 1

    # The same model, seed and sets: the base is not scored again.
    monkeypatch.setattr(measured, "load_base_model", None)
    again = run_trial(trial_config({**plain, "learning_rate": 1e-5}), directory=tmp_path / "2")
    assert again.state == "complete", again.reason
    assert again.report["base"] == record.report["base"]
    other = run_trial(trial_config({**plain, "seed": 1}), directory=tmp_path / "3")
    assert other.state == "failed"


def test_the_base_is_what_training_starts_from(plain: dict, tmp_path: Path) -> None:
    plain["learning_rate"] = 1e-30
    plain["evaluation"]["objective"] = "loss - base.loss"
    record = run_trial(trial_config(plain), directory=tmp_path / "1")
    assert record.objective == pytest.approx(0, abs=1e-6)
    assert record.report["drift"]["mine"]["score_shift"] == pytest.approx(0, abs=1e-5)
    # One epoch has none before it.
    assert "drift_between_epochs" not in record.report


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
def test_no_text_of_a_trial_is_tokenised_twice(
    model: str, plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those trained on nor those scored: by the base, after each epoch, in the end."""
    plain |= {"model": {"name": model}, "epochs": 2}
    plain["evaluation"] |= {"objective": "'mine/loss' - base.loss", "test": True}
    encoded: list[tuple[object, str]] = []
    original = TextTemplate.encode

    def counted(self: TextTemplate, prompts: Any, responses: Any) -> Any:
        encoded.extend(zip(prompts, responses, strict=True))
        return original(self, prompts, responses)

    monkeypatch.setattr(TextTemplate, "encode", counted)
    first = run_trial(trial_config(plain), directory=tmp_path / "1")
    assert first.state == "complete", first.reason
    assert len(encoded) == len(set(encoded)) > 40
    change = {"seed": 1, "gamma": 0.25, "learning_rate": 1e-3}
    second = run_trial(trial_config({**plain, **change}), directory=tmp_path / "2")
    assert second.state == "complete", second.reason
    assert second.metrics["mine/loss"] != first.metrics["mine/loss"]
    assert len(encoded) == len(set(encoded))


def test_contamination_is_found_before_training(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept even where training fails."""
    from rmexp.preferences import read_starter

    suite = Path(plain["evaluation"]["suites"]["mine"]["path"])
    rows = [
        {
            "id": f"copied{i}",
            "prompt": [{"role": m.role, "content": m.content.upper()} for m in pair.prompt],
            "response_a": "x",
            "response_b": "y",
            "preference": "a",
        }
        for i, pair in enumerate(read_starter(limit=40).pairs)
    ]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("rmexp.trial.steps.train_reward_model", broken)
    record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "failed"
    found = record.report["contamination"]
    assert found.keys() == {"validation", "mine", "test"}
    assert found["validation"]["exact"] == found["test"]["exact"] == 0
    assert found["mine"]["exact"] == record.report["split"]["train"]
    assert record.metrics["contamination/mine"] >= found["mine"]["exact"]
    assert found["mine"]["examples"][0]["id"].startswith("copied")


def test_metrics_of_suites_are_known_before_training(plain: dict, tmp_path: Path) -> None:
    plain["evaluation"]["guards"] = ["'mine/acuracy' >= 0.5"]
    with pytest.raises(UserError, match="did you mean 'mine/accuracy'"):
        run_trial(trial_config(plain), directory=tmp_path / "t")
    assert not (tmp_path / "t").exists()
    # What a suite of the hub can have is known before it is fetched.
    plain["evaluation"]["suites"]["far"] = {"kind": "hh"}
    with pytest.raises(UserError, match="did you mean 'mine/accuracy'"):
        run_trial(trial_config(plain), directory=tmp_path / "t")


@pytest.mark.parametrize(
    ("suite", "name", "meant"),
    [
        ({"kind": "rewardbench"}, "Chta", "Chat"),
        ({"kind": "rewardbench"}, "'far/Chta Hard'", "far/Chat Hard"),
        ({"kind": "rewardbench"}, "Prio", ""),
        ({"kind": "rewardbench", "prior": "hub"}, "Prio", "Prior"),
        ({"kind": "prior_sets"}, "sumarize", "summarize"),
        ({"kind": "rewardbench2"}, "Focsu", "Focus"),
        ({"kind": "rewardbench2"}, "acuracy_length_matched", "accuracy_length_matched"),
        ({"kind": "hh"}, "'far/acuracy'", "far/accuracy"),
    ],
)
def test_names_on_the_hubs_sets_are_checked_before_they_are_fetched(
    plain: dict, tmp_path: Path, suite: dict, name: str, meant: str
) -> None:
    plain["evaluation"]["suites"]["far"] = suite
    for wrong in (
        {"guards": [f"{name} >= 0.5"]},
        {"objective": f"accuracy - base.accuracy + {name}"},
    ):
        config = trial_config({**plain, "evaluation": {**plain["evaluation"], **wrong}})
        with pytest.raises(
            UserError, match=f"did you mean '{meant}'" if meant else "unknown metric"
        ):
            run_trial(config, directory=tmp_path / "t")
    assert not (tmp_path / "t").exists()
    if meant:
        plain["evaluation"]["guards"] = [f"'{meant}' >= 'base.{meant}' - 0.01"]
        check_before_anything_heavy(trial_config(plain))


def test_names_on_the_hubs_pairs_are_checked_as_far_as_rows_do_not_make_them(plain: dict) -> None:
    plain["data"] = {"source": "hub", "name": "owner/name"}
    for name in ("accuracy", "style_gap", "'category/fraud'", "'kind/harmful'", "'mine/margin'"):
        plain["evaluation"]["guards"] = [f"{name} >= 0.5"]
        check_before_anything_heavy(trial_config(plain))
    plain["evaluation"]["guards"] = ["acuracy >= 0.5"]
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        check_before_anything_heavy(trial_config(plain))


def test_what_the_hubs_rows_lack_is_told_before_anything_is_rated(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"prompt": "q", "chosen": "yes", "rejected": "no", "subset": "donotanswer", "id": 1}
    monkeypatch.setattr(
        "rmexp.evaluation.rewardbench.hub_rows", lambda *names, **more: iter([("hub:1", row)])
    )
    plain["evaluation"]["suites"]["far"] = {"kind": "rewardbench"}
    plain["evaluation"]["guards"] = ["Chat >= 0.5"]
    record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "failed"
    assert "unknown metric 'Chat'" in record.reason
    assert "rate" not in record.times
    plain["evaluation"]["guards"] = ["Safety >= 0.5"]
    assert run_trial(trial_config(plain), directory=tmp_path / "u").state == "complete"


def test_an_objective_over_a_suite_is_known_after_each_epoch(plain: dict, tmp_path: Path) -> None:
    """So that a search over suites can prune; with the drift from one checkpoint to the next."""
    plain["epochs"] = 3
    plain["learning_rate"] = 0.01
    plain["evaluation"]["objective"] = "'mine/loss' - base.accuracy + 0*over_length_baseline"
    seen: list[tuple[int, float]] = []

    def report(epoch: int, value: float) -> bool:
        seen.append((epoch, value))
        return epoch == 2

    record = run_trial(trial_config(plain), directory=tmp_path / "pruned", report=report)
    assert record.state == "pruned", record.reason
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert seen[0][1] != seen[1][1]
    assert [row["mine/loss"] for row in record.history] != [seen[0][1]] * 2

    plain["epochs"] = 2
    whole = run_trial(trial_config(plain), directory=tmp_path / "whole")
    assert whole.state == "complete", whole.reason
    assert whole.history[-1]["mine/loss"] == pytest.approx(whole.metrics["mine/loss"], abs=1e-5)
    rows = [row["mine/score_shift"] for row in whole.history]
    assert rows[0] == pytest.approx(record.history[0]["mine/score_shift"], abs=0.5)
    assert all(-1 <= row["validation/score_rank_correlation"] <= 1 for row in whole.history)


def test_the_drift_between_epochs_is_in_every_result(plain: dict, tmp_path: Path) -> None:
    """Of the validation scores, without an objective that looks at the base or at a suite."""
    plain |= {"epochs": 3, "learning_rate": 0.01}
    record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "complete", record.reason
    names = [f"validation/{name}" for name in SCORE_DRIFT]
    first, *later = record.history
    assert not first.keys() & set(names)
    assert all(row.keys() >= set(names) for row in later)
    last = {name: later[-1][f"validation/{name}"] for name in SCORE_DRIFT}
    assert record.report["drift_between_epochs"] == {"validation": last}
    assert last["score_distance"] > 0
    moved = later[-1]["validation/reward_mean"] - later[-2]["validation/reward_mean"]
    assert last["score_shift"] == pytest.approx(moved / later[-2]["validation/reward_std"])

    plain["evaluation"]["every_epoch"] = False
    unmeasured = run_trial(trial_config(plain), directory=tmp_path / "u")
    assert "drift_between_epochs" not in unmeasured.report


def test_measuring_between_epochs_does_not_move_training(plain: dict, tmp_path: Path) -> None:
    plain["epochs"] = 2
    plain["learning_rate"] = 0.01
    bare = run_trial(trial_config(plain), directory=tmp_path / "1")
    plain["evaluation"]["objective"] = "'mine/accuracy'"
    measured_too = run_trial(trial_config(plain), directory=tmp_path / "2")
    assert measured_too.state == "complete", measured_too.reason
    losses = [[row["train/loss"] for row in r.history] for r in (bare, measured_too)]
    assert losses[0] == losses[1]
    assert measured_too.metrics["mine/loss"] == bare.metrics["mine/loss"]


def test_an_unknown_metric_is_told_after_the_first_epoch(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should it ever not have been told before training."""
    monkeypatch.setattr("rmexp.trial.early.check_data", lambda config: None)
    plain["epochs"] = 2
    plain["evaluation"]["objective"] = "'mine/acuracy'"
    record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "failed"
    assert "did you mean 'mine/accuracy'" in record.reason
    assert len(record.history) == 1


def test_what_a_trials_model_has_seen_of_another_set(plain: dict, tmp_path: Path) -> None:
    """Training is over, the set is new: the overlap is still told."""
    from rmexp.preferences import read_starter
    from rmexp.trial.evaluate import EvaluateConfig, EvaluatedModelConfig, evaluate
    from rmexp.trial.evaluation_schema import SuiteConfig

    record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "complete", record.reason
    rows = [
        {"id": f"r{i}", "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt]}
        | {"response_a": "x", "response_b": "y", "preference": "a"}
        for i, pair in enumerate(read_starter(limit=40).pairs)
    ]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = SuiteConfig(kind="file", path=str(other), name="Other", licence="MIT")
    config = EvaluateConfig(
        model=EvaluatedModelConfig(path=str(tmp_path / "t")),
        suite=suite,
        out=str(tmp_path / "out.json"),
        cache_dir=str(tmp_path / "cache"),
    )
    found = evaluate(config)
    assert found.contamination is not None
    assert found.contamination["exact"] == record.report["split"]["train"]
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["contamination"] == found.contamination
    assert evaluation_picture("m", found.result).count("reliability of sigmoid(margin)") == 1
    assert "prompts overlap" in contamination_line(found.contamination)

    stored = json.loads((tmp_path / "t" / "record.json").read_text())
    stored["fingerprints"]["train"]["hexdigest"] = "0"
    (tmp_path / "t" / "record.json").write_text(json.dumps(stored))
    found = evaluate(config)
    assert found.contamination == {"unknown": "the training pairs have changed since the trial ran"}
    assert "unknown" in contamination_line(found.contamination)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"guards": ["accuracy"]}, "guard 'accuracy'"),
        ({"suites": {"mine": {"kind": "llmbar", "path": "/nowhere"}}}, "/nowhere"),
        ({"suites": {"mine": {"kind": "pairs"}}}, "other than pairs"),
        ({"suites": {"base": {"kind": "rewardbench"}}}, "'base' names other metrics"),
        ({"suites": {"kind": {"kind": "rewardbench"}}}, "'kind' names other metrics"),
        ({"suites": {"mine": {"kind": "file", "path": "x"}}}, "needs suite.name"),
        (
            {"suites": {"rewardbench": {"kind": "hh"}}},
            "'rewardbench' is no name for a set of kind hh",
        ),
        ({"suites": {"Reward_Bench": {"kind": "hh"}}}, "is no name for a set of kind hh"),
        ({"suites": {"rewardbench2": {"kind": "rewardbench"}}}, "of kind rewardbench, whose"),
        ({"suites": {"mine": {"kind": "hh", "styles": ["a"]}}}, "for suite.kind=file"),
        ({"suites": {"mine": {"kind": "hh", "prior": "hub"}}}, "suite.prior"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    plain: dict, tmp_path: Path, evaluation: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_trial(trial_config({**plain, "evaluation": evaluation}), directory=tmp_path / "t")
    assert not (tmp_path / "t").exists()


class Longer:
    def score(self, prompts, responses):
        return [len(r) for r in responses]


def test_names_of_metrics() -> None:
    pair = Pair("p", prompt_from_text("q"), "long", "x", "a", kind="harmful")
    other = Pair("p", prompt_from_text("q"), "long", "x", "b", kind="odd")
    results = {
        name: evaluate_set(Longer(), pairs_set([p], name))
        for name, p in (("validation", pair), ("one", other))
    }
    known = known_metrics(results)
    assert known["accuracy"] == 1.0
    assert known["one/accuracy"] == known["kind/odd"] == 0.0
    assert guard_violations(["accuracy >= 0.5"], known) == {"guards/accuracy >= 0.5": -0.5}


def test_the_base_is_wanted_only_where_it_is_named() -> None:
    assert not wants_base(EvaluationConfig())
    assert wants_base(EvaluationConfig(objective="accuracy - base.accuracy"))
    assert wants_base(EvaluationConfig(guards=["Chat >= base.Chat - 0.01"]))


def test_the_clearest_mistakes_come_first() -> None:
    pairs = [
        Pair(f"p{i}", prompt_from_text("q"), "a" * (100 + 10 * i), "b" * 120, "a") for i in range(5)
    ]
    columns, rows = wrongly_ranked(evaluate_set(LengthScorer(), pairs_set(pairs, "x")))
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    # The longer wins: p0 and p1 are wrong, p2 is a tie.
    assert [row["pair"] for row in named] == ["p0", "p1"]
    assert [row["gap"] for row in named] == pytest.approx([-0.2, -0.1])
    assert named[0]["preferred by people"] == "a" * 100
    assert named[0]["its score"] == 1.0
    assert named[0]["other score"] == 1.2
    assert len(wrongly_ranked(evaluate_set(LengthScorer(), pairs_set(pairs, "x")), 1)[1]) == 1
