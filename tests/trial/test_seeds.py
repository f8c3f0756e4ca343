"""Trials of several seeds: what they come to, how they are pruned, and how they go on."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from quick_config import quick_config
from stopped_training import stopping_at

from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.reward.module import RewardModule
from rmexp.trial import lost
from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import TrialConfig, trial_config

SEEDS = [3, 1]


def config_of(tmp_path: Path, **more: Any) -> TrialConfig:
    return trial_config(quick_config(tmp_path, **{"seeds": SEEDS, "epochs": 2, **more}))


def failing_at(step: int, seed: int) -> AbstractContextManager[None]:
    """Training with one of the seeds fails at a step."""
    return stopping_at(
        step,
        RuntimeError("the machine caught fire"),
        where=lambda module: module.trainer.default_root_dir.endswith(f"seed-{seed}"),
    )


def test_a_trial_is_the_mean_of_its_seeds(tmp_path: Path) -> None:
    config = config_of(tmp_path, learning_rate=0.01)
    record = run_trial(config, directory=tmp_path / "t")
    alone = [run_trial(config.with_seed(s), directory=tmp_path / f"alone{s}") for s in SEEDS]
    assert record.state == "complete", record.reason
    values = [one.objective for one in alone]
    assert record.objective == fmean(values)
    assert record.metrics["seeds/objective_std"] == stdev(values)
    assert record.metrics["ratings/rated"] == sum(
        each["metrics"]["ratings/rated"] for each in record.report["by_seed"]
    )
    losses = [one.metrics["validation/loss"] for one in alone]
    assert losses[0] != losses[1]
    assert record.metrics["validation/loss"] == fmean(losses)
    assert [row["epoch"] for row in record.history] == [1, 2, 3, 4]
    assert [row["seed"] for row in record.history] == [3, 3, 1, 1]
    assert [each["objectives"] for each in record.report["by_seed"]] == [[v] for v in values]
    assert record.seeds["trial"] == SEEDS
    assert TrialRecord.read(tmp_path / "t") == record

    weights = "model/model.safetensors"
    first = (tmp_path / f"alone{SEEDS[0]}" / weights).read_bytes()
    assert (tmp_path / "t" / weights).read_bytes() == first
    assert not [*(tmp_path / "t").glob("seed-*/model")]
    card = (tmp_path / "t/model/README.md").read_text()
    assert f"seed {SEEDS[0]} of the seeds 3, 1" in card


def test_its_interval_is_of_other_seeds_too(tmp_path: Path) -> None:
    config = config_of(tmp_path, learning_rate=0.01)
    together = run_trial(config, directory=tmp_path / "t").metrics
    alone = run_trial(config.with_seed(3), directory=tmp_path / "alone").metrics

    def width(metrics: dict[str, float]) -> float:
        return metrics["validation/accuracy_high"] - metrics["validation/accuracy_low"]

    assert together["seeds/objective_std"] > 0
    assert width(together) > width(alone)  # two seeds tell little of others


def test_epochs_are_counted_on_and_reported_with_the_mean(tmp_path: Path) -> None:
    heard: list[tuple[int, float]] = []
    config = config_of(tmp_path, learning_rate=0.01)
    record = run_trial(
        config,
        directory=tmp_path / "t",
        report=lambda epoch, value: heard.append((epoch, value)) or False,
    )
    assert [epoch for epoch, _ in heard] == [1, 2, 3, 4]
    of_seed = [each["objectives"][0] for each in record.report["by_seed"]]
    accuracy = [row["validation/accuracy"] for row in record.history]
    assert [value for _, value in heard] == pytest.approx(
        [*accuracy[:2], *(fmean([of_seed[0], now]) for now in accuracy[2:])]
    )


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_it_is_pruned_within_a_seed_or_between_two(tmp_path: Path, epoch: int) -> None:
    record = run_trial(
        config_of(tmp_path), directory=tmp_path / "t", report=lambda at, value: at == epoch
    )
    assert record.state == "pruned"
    of_seed = SEEDS[0] if epoch < 3 else SEEDS[1]
    assert f"pruned after epoch {epoch}, of seed {of_seed}, at accuracy=" in record.reason
    assert record.objective is not None
    assert len(record.history) == epoch
    assert not [*(tmp_path / "t").rglob("model")]


def test_the_last_epoch_of_all_is_no_reason_to_prune(tmp_path: Path) -> None:
    record = run_trial(
        config_of(tmp_path), directory=tmp_path / "t", report=lambda at, value: at == 4
    )
    assert record.state == "complete"


def test_a_seed_that_fails_is_named_and_the_others_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"threads": 1, "batch_pairs": 4, "warmup_steps": 0, "checkpoint_steps": 2}
    config = config_of(tmp_path, trainer=trainer)
    whole = run_trial(config, directory=tmp_path / "whole")
    with failing_at(5, SEEDS[1]):
        failed = run_trial(config, directory=tmp_path / "failed")
    assert failed.state == "failed"
    assert failed.reason == "seed 1: RuntimeError: the machine caught fire"
    assert failed.failure == "other"
    assert "caught fire" in failed.traceback

    trained: list[tuple[str, int]] = []
    original = RewardModule.on_train_start

    def noting(self: RewardModule) -> None:
        trained.append((Path(self.trainer.default_root_dir).name, self.global_step))
        original(self)

    heard: list[int] = []
    monkeypatch.setattr(RewardModule, "on_train_start", noting)
    again = run_trial(
        config,
        directory=tmp_path / "again",
        resume_from=tmp_path / "failed",
        report=lambda epoch, value: heard.append(epoch) or False,
    )
    assert trained == [("seed-1", 4)]
    assert heard == [2, 3, 4]
    assert again.metrics["validation/loss"] == whole.metrics["validation/loss"]
    assert again.objective == whole.objective
    weights = "model/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (
        tmp_path / "whole" / weights
    ).read_bytes()


def test_a_single_run_goes_on_by_ckpt_path(
    capsys: pytest.CaptureFixture[str], quick: list[str]
) -> None:
    words = ["train", *quick, "seeds=[3,1]", "trainer.checkpoint_steps=1"]
    words += ["trainer.batch_pairs=4", "trainer.warmup_steps=0"]
    with failing_at(2, SEEDS[1]), pytest.raises(SystemExit):
        main(words)
    with pytest.raises(SystemExit):
        main([*words, "gamma=0.25", "ckpt_path=last"])
    assert "gamma was 1.0, now 0.25" in capsys.readouterr().err
    main([*words, "ckpt_path=last"])
    out = capsys.readouterr().out
    assert "mean of 2 seeds: " in out
    assert "the model kept is that of seed 3" in out
    with pytest.raises(SystemExit):
        main([*words, "ckpt_path=last"])
    assert "no unfinished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": [1, 1]}, "must be different integers"),
        ({"seeds": [-1]}, "must be different integers"),
        ({"seeds": [1, 2], "seed": 5}, "seed=5: has no effect beside seeds"),
    ],
)
def test_seeds_are_checked(keys: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trial_config({"cache_dir": "c", **keys})


def test_trials_of_different_seeds_are_refused(
    capsys: pytest.CaptureFixture[str], quick: list[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "-m", *quick, "study=s", "seeds=choice([0],[1])", "gamma=choice(0,1)"])
    assert "seeds: [0] at some points and [] at others" in capsys.readouterr().err


def test_each_seed_has_a_run_of_its_own_at_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmexp.trial import assembly

    runs: dict[str, list] = {}

    class Noting:
        def __init__(self, info: Any) -> None:
            self.told = runs.setdefault(info.id, [info.name, info.job_type])

        def log(self, metrics: Any, *, step_metric: str, step: float) -> None:
            self.told.append((step_metric, step))

        def table(self, *of: Any) -> None:
            pass

        def finish(self, state: str, reason: str, summary: Any) -> None:
            self.told.append(state)

    monkeypatch.setattr(assembly, "tracker", lambda config, info: Noting(info))
    config = config_of(tmp_path)
    run_trial(config, directory=tmp_path / "0007", identity=TrialIdentity("s", 7, 1))
    assert runs["s-trial-7-1"] == ["s-0007", "trial", ("epoch", 2), ("epoch", 4), "complete"]
    for seed in SEEDS:
        name, kind, *_, state = runs[f"s-trial-7-1-seed{seed}"]
        assert (name, kind, state) == (f"s-0007-seed{seed}", "seed", "complete")

    # Killed while the second seed trained: nobody else tells the tracker of it.
    runs.clear()
    (tmp_path / "0007" / "record.json").unlink()
    (tmp_path / "0007" / "seed-1" / "record.json").unlink()
    lost.close_lost_run(config, TrialIdentity("s", 7, 1), tmp_path / "0007", "killed")
    assert {run: told[-1] for run, told in runs.items()} == {
        "s-trial-7-1-seed1": "failed",
        "s-trial-7-1": "failed",
    }


def test_a_sweep_gives_every_trial_the_same_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: list[str]
) -> None:
    words = [*quick, "study=several", "seeds=[3,1]", "gamma=choice(0.25,1.0)", "sweep.trials=2"]
    main(["train", "-m", *words, "executor=inline", "sweep.sampler.kind=grid"])
    said = capsys.readouterr().out
    assert "mean of 2 seeds: " in said
    trials = tmp_path / "outputs" / "studies" / "several" / "trials"
    records = [TrialRecord.read(path) for path in sorted(trials.iterdir())]
    assert [record.seeds["trial"] for record in records] == [SEEDS, SEEDS]

    main(["rerun", "several", "--output-dir", str(tmp_path / "outputs")])
    assert "equal to the last digit" in capsys.readouterr().out

    where = ["--output-dir", str(tmp_path / "outputs")]
    main(["confirm", "several", "--top", "1", "--seeds", "2", *where])
    stored = json.loads((trials.parent / "confirmation.json").read_text())
    assert stored["seeds"] == [1000, 1001]
    runs = sorted(path.name for path in (trials.parent / "confirm").iterdir())
    assert [name.partition("-")[2] for name in runs] == ["seed1000", "seed1001"]
    assert all(TrialRecord.read(trials.parent / "confirm" / n).config["seeds"] == [] for n in runs)
