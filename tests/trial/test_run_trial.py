from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexp.backbone import sources
from rmexp.errors import UserError
from rmexp.labelling import preference_labels
from rmexp.preferences import Pair, prompt_from_text, read_files
from rmexp.trial import run
from rmexp.trial.assembly import check_before_anything_heavy
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import TrialConfig, trial_config
from rmexp.trial.steps import training_pairs

RULES = ["answers_alarming_wording", "no_invented_intent", "offers_safe_alternative"]


@pytest.fixture
def plain(tmp_path: Path) -> dict:
    return {
        "r": 1,
        "epochs": 1,
        "data": {"limit": 40},
        "rules": {"ids": RULES},
        "rater": {
            "kind": "custom",
            "target": "word_rater:WordRater",
            "options": {"counter": str(tmp_path / "asked")},
        },
        "model": {"name": "tiny"},
        "trainer": {"threads": 1},
        "tracker": {"kind": "none"},
        "cache_dir": str(tmp_path / "cache"),
    }


def test_a_trial_runs_the_whole_line_and_writes_its_record(plain: dict, tmp_path: Path) -> None:
    record = run_trial(
        trial_config(plain), directory=tmp_path / "t", identity=TrialIdentity("s", 4)
    )
    assert record.state == "complete"
    assert record.objective == record.metrics["validation/accuracy"]
    assert TrialRecord.read(tmp_path / "t") == record
    assert record.metrics["ratings/rated"] == record.report["split"]["train"] * 2 * len(RULES)
    assert {"pairs", "train", "validation", "test", "rules", "rater", "model", "code"} <= set(
        record.fingerprints
    )
    assert not any(name.startswith("test/") for name in record.metrics)
    assert (tmp_path / "t" / "model" / "model.safetensors").is_file()


def test_pairs_that_cannot_be_rated_are_left_out_on_every_rank(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = tmp_path / "down"
    down.touch()
    plain["rater"] |= {"target": "flaky_rater:FlakyRater", "options": {"down": str(down)}}
    config = trial_config(plain)
    trained = []
    monkeypatch.setattr(
        run, "train", lambda trial, splits, labelled, *rest: trained.append(labelled)
    )
    for step in ("evaluate", "add_to_card"):
        monkeypatch.setattr(run, step, lambda *rest: None)
    record = run_trial(config, directory=tmp_path / "t")
    assert record.state == "complete", record.reason
    down.unlink()
    run.join_training(config, directory=tmp_path / "t", resume=False)
    first, second = trained
    assert first.unrated == second.unrated
    assert record.metrics["labels/dropped_unrated"] == len(first.unrated) > 0
    assert first.rated.pairs == second.rated.pairs
    np.testing.assert_array_equal(first.critical, second.critical)


def test_the_same_config_gives_the_same_bits(plain: dict, tmp_path: Path) -> None:
    one = run_trial(trial_config(plain), directory=tmp_path / "1")
    two = run_trial(trial_config(plain), directory=tmp_path / "2")
    other = run_trial(trial_config({**plain, "seed": 1}), directory=tmp_path / "3")
    weights = [(tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("1", "2", "3")]
    assert weights[0] == weights[1] != weights[2]
    assert one.metrics["validation/loss"] == two.metrics["validation/loss"]
    assert one.metrics["validation/loss"] != other.metrics["validation/loss"]


def test_the_second_trial_rates_nothing(plain: dict, tmp_path: Path) -> None:
    run_trial(trial_config(plain), directory=tmp_path / "1")
    asked = (tmp_path / "asked").read_text()
    second = run_trial(
        trial_config({**plain, "gamma": 0.25, "r": 2, "learning_rate": 1e-3}),
        directory=tmp_path / "2",
    )
    assert second.metrics["ratings/rated"] == 0
    assert second.metrics["ratings/reused"] > 0
    assert (tmp_path / "asked").read_text() == asked


def test_the_second_trial_hashes_no_weights_again(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial is a process of its own: what one remembers the next must find on disk."""
    hashed: list[Path] = []
    original = sources.file_sha256
    monkeypatch.setattr(sources, "file_sha256", lambda p: (hashed.append(p), original(p))[1])
    plain["rater"] = {"kind": "exemplar", "encoder": "tiny_encoder"}
    for n, expected in enumerate((2, 0)):
        sources._digests.clear()
        hashed.clear()
        config = trial_config({**plain, "seed": n})
        record = run_trial(config, directory=tmp_path / str(n))
        assert record.state == "complete", record.reason
        assert sum(path.suffix == ".safetensors" for path in hashed) == expected


def test_a_missing_rating_is_an_error_where_asked_for(plain: dict, tmp_path: Path) -> None:
    config = trial_config({**plain, "rating": {"on_missing": "error"}})
    record = run_trial(config, directory=tmp_path / "t")
    assert record.state == "failed"
    assert "ratings are missing" in record.reason


def test_training_never_sees_the_human_preference(plain: dict, tmp_path: Path) -> None:
    """Flipping every training preference changes nothing of what is trained."""
    pairs = [
        {
            "id": f"p{i}",
            "prompt": f"Question number {i}?",
            "response_a": f"An answer with {i} words or so.",
            "response_b": f"No, not for question {i * 7}.",
            "preference": "a",
        }
        for i in range(30)
    ]
    losses = []
    for n, flip in enumerate((False, True)):
        path = tmp_path / f"pairs{n}.jsonl"
        rows = [{**p, "preference": "b"} if flip else p for p in pairs]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = trial_config({**plain, "data": {"source": "files", "path": str(path)}})
        record = run_trial(config, directory=tmp_path / f"t{n}")
        losses.append(record.metrics["train/pairs"])
    assert losses[0] == losses[1]
    weights = [(tmp_path / f"t{n}/model/model.safetensors").read_bytes() for n in (0, 1)]
    assert weights[0] == weights[1]


def test_pairs_without_preference_train_but_cannot_be_measured(plain: dict, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Q{i}", "response_a": f"yes {i}", "response_b": f"no {i}"} for i in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "files", "path": str(path)}
    with pytest.raises(UserError, match="no validation pair has a human preference"):
        run_trial(trial_config({**plain, "data": data}), directory=tmp_path / "1")
    assert not (tmp_path / "1").exists()
    data["split"] = {"train": 1.0, "validation": 0.0, "test": 0.0}
    record = run_trial(trial_config({**plain, "data": data}), directory=tmp_path / "2")
    assert record.state == "complete"
    assert record.objective is None
    assert (tmp_path / "2" / "model").is_dir()


def test_pruning_stops_the_trial_and_says_where(plain: dict, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    def report(epoch: int, value: float) -> bool:
        seen.append((epoch, value))
        return epoch == 1

    plain["trainer"]["checkpoint_steps"] = 1
    config = trial_config({**plain, "epochs": 3})
    record = run_trial(config, directory=tmp_path / "t", report=report)
    assert record.state == "pruned"
    assert not (tmp_path / "t" / "checkpoints").exists()
    assert [epoch for epoch, _ in seen] == [1]
    assert record.objective == seen[0][1]
    assert "after epoch 1" in record.reason
    assert "model" in record.fingerprints  # by which a later change of it is told


def test_a_formula_is_reported_each_epoch(plain: dict, tmp_path: Path) -> None:
    seen: list[float] = []
    config = trial_config(
        {**plain, "epochs": 2, "evaluation": {"objective": "accuracy - 0.1 * loss"}}
    )
    record = run_trial(
        config, directory=tmp_path / "t", report=lambda epoch, value: bool(seen.append(value))
    )
    assert len(seen) == 2
    expected = record.metrics["validation/accuracy"] - 0.1 * record.metrics["validation/loss"]
    assert record.objective == pytest.approx(expected)


def test_a_crash_is_a_failed_record_with_the_traceback(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the machine\ncaught fire")

    monkeypatch.setattr("rmexp.trial.steps.train_reward_model", broken)
    record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "failed"
    assert record.reason == "RuntimeError: the machine caught fire"
    assert "in broken" in record.traceback
    assert TrialRecord.read(tmp_path / "t").state == "failed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 4}, "r: 4 critical rules from a set of 3"),
        ({"rules": {"ids": ["unheard_of"]}}, "no rule 'unheard_of'"),
        ({"model": {"name": "/nowhere"}}, "model.name"),
        ({"data": {"source": "files", "path": "/nowhere.jsonl"}}, "data.path"),
        ({"evaluation": {"objective": "accuracy +"}}, "objective"),
        ({"evaluation": {"objective": "acuracy"}}, "did you mean 'accuracy'"),
        ({"evaluation": {"objective": "base.los"}}, "did you mean 'base.loss'"),
        ({"evaluation": {"guards": ["loss <= 1", "los <= 1"]}}, "guard 'los <= 1'.* 'loss'"),
        ({"model": {"name": "tiny", "max_length": 4096}}, "positions for 2048 tokens"),
        ({"peft": {"kind": "last_k", "last_k": 3}}, "has 2 layers; use 2 or less"),
        ({"trainer": {"accelerator": "mps"}}, "torch sees no MPS device; use trainer=cpu"),
        ({"rater": {"kind": "probe", "path": "/nowhere"}}, "rater.path: no such file"),
    ],
)
def test_what_cannot_run_is_told_before_anything_is_written(
    plain: dict, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_trial(trial_config({**plain, **change}), directory=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_label_decides_which_response_is_chosen() -> None:
    pairs = [Pair(f"p{i}", prompt_from_text("q"), "left", "right") for i in range(3)]
    psi_a = np.array([[1.0], [-1.0], [0.5]])
    psi_b = np.array([[-1.0], [0.0], [0.5]])
    labels = preference_labels(psi_a, psi_b, np.zeros((3, 1), np.int64), tie="half")
    loss = {"margin_scale": 2.0}
    config = trial_config({"cache_dir": "c", "loss": loss, "selection": {"tie": "half"}})
    trained = training_pairs(pairs, labels, config)
    assert list(trained.chosen) == ["left", "right", "left"]
    assert list(trained.rejected) == ["right", "left", "right"]
    np.testing.assert_allclose(trained.margin, [2.0, 1.0, 0.0])
    np.testing.assert_allclose(trained.target, [1.0, 1.0, 0.5])
    assert trained.weight is None
    dropped = preference_labels(psi_a, psi_b, np.zeros((3, 1), np.int64), tie="drop")
    weighed = trial_config({"cache_dir": "c", "loss": {**loss, "weight_by_margin": True}})
    trained = training_pairs(pairs, dropped, weighed)
    assert len(trained.ids) == 2
    assert trained.target is None
    np.testing.assert_allclose(trained.weight, [4 / 3, 2 / 3])


def test_the_token_budget_of_the_config_is_that_of_training(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 16 pairs: each text in a pass of its own, or several in one."""
    from rmexp.reward.module import RewardModule

    passes: list[int] = []
    original = RewardModule.training_step

    def counted(self: RewardModule, batch: Any, batch_index: int) -> Any:
        passes.append(len(batch.rows))
        return original(self, batch, batch_index)

    monkeypatch.setattr(RewardModule, "training_step", counted)
    plain["model"]["max_length"] = 48
    for budget in (512, 48):
        plain["trainer"] = {"threads": 1, "token_budget": budget}
        record = run_trial(trial_config(plain), directory=tmp_path / str(budget))
        assert record.state == "complete", record.traceback
    wide, narrow = passes[: len(passes) // 2], passes[len(passes) // 2 :]
    assert sum(narrow) > sum(wide)


def test_without_a_tracker_wandb_is_never_imported(plain: dict, tmp_path: Path) -> None:
    code = (
        "import json, sys, pathlib\n"
        "from rmexp.trial.schema import trial_config\n"
        "from rmexp.trial.run import run_trial\n"
        "r = run_trial(trial_config(json.loads(sys.argv[1])),"
        " directory=pathlib.Path(sys.argv[2]))\n"
        "assert r.state == 'complete', r.reason\n"
        "assert 'wandb' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "doubles")}
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(plain), str(tmp_path / "t")],
        check=True,
        env=environment,
    )


def test_the_config_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        TrialConfig(cache_dir="c").gamma = 2.0


def test_a_mistake_in_a_point_of_a_study_is_a_failed_trial(plain: dict, tmp_path: Path) -> None:
    """Its worker must not die of it: a lost worker is tried again."""
    config = trial_config({**plain, "evaluation": {"objective": "acuracy"}})
    record = run_trial(config, directory=tmp_path / "t", identity=TrialIdentity("study", 3))
    assert record.state == "failed"
    assert record.failure == "user_error"
    assert "did you mean 'accuracy'" in record.reason
    assert not (tmp_path / "t" / "model").exists()


def test_a_check_before_the_trial_spares_it_the_reading(
    plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pairs.jsonl"
    row = '{{"prompt": "Q{0}", "response_a": "yes {0}", "response_b": "no", "preference": "a"}}\n'
    path.write_text("".join(row.format(n) for n in range(20)))
    read = []
    monkeypatch.setattr(
        "rmexp.trial.reading.read_files", lambda p, **k: read.append(p) or read_files(p, **k)
    )
    config = trial_config({**plain, "data": {"source": "files", "path": str(path)}})
    check_before_anything_heavy(config)
    record = run_trial(config, directory=tmp_path / "1")
    assert record.state == "complete"
    assert read == [str(path)]
    path.write_text("".join(row.format(n) for n in range(30)))
    again = run_trial(config, directory=tmp_path / "2")
    assert again.report["data"]["read"] == 30


@pytest.mark.parametrize(
    ("room", "kept"), [(4.0, True), (1e-6, False), (0.0, False)], ids=["room", "too little", "none"]
)
def test_how_much_frozen_layers_may_keep_is_a_key(
    room: float, kept: bool, plain: dict, tmp_path: Path
) -> None:
    plain |= {"peft": {"kind": "head_only"}, "trainer": {"threads": 1, "frozen_cache_gb": room}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        record = run_trial(trial_config(plain), directory=tmp_path / "t")
    assert record.state == "complete", record.reason
    assert (record.metrics["train/frozen_computed"] > 0) == kept
    assert (record.metrics["train/frozen_left_out"] > 0) == (room == 1e-6)
    assert any("trainer.frozen_cache_gb allows" in str(w.message) for w in told) == (room == 1e-6)
    assert (tmp_path / "cache" / "frozen").is_dir() == kept
