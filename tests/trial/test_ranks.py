"""Several ranks a trial. Trap 18: a rank that trains other hyper-parameters than rank 0."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies.launchers import subprocess_script

from rmexp.backbone.options import PeftOptions
from rmexp.cli import main
from rmexp.errors import UserError
from rmexp.fingerprint import fingerprint
from rmexp.preferences import prompt_from_text
from rmexp.reward import train as train_module
from rmexp.reward.data import TrainingPairs
from rmexp.reward.ranks import DifferentRuns, SameRun
from rmexp.reward.train import train_reward_model
from rmexp.sweep.study import load_study
from rmexp.trial import ranks as ranks_module
from rmexp.trial.record import TrialRecord
from rmexp.trial.run import run_trial
from rmexp.trial.schema import TrialConfig, trial_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> TrialConfig:
    return trial_config(
        {
            "r": 1,
            "epochs": 2,
            "data": {"limit": 40},
            "rules": {"ids": ["answers_alarming_wording", "no_invented_intent"]},
            "rater": {
                "kind": "custom",
                "target": "word_rater:WordRater",
                "options": {"counter": str(tmp_path / "asked")},
            },
            "model": {"name": "tiny"},
            "trainer": {"threads": 1, "devices": 2, "strategy": "ddp"},
            "tracker": {"kind": "none"},
            "cache_dir": str(tmp_path / "cache"),
        }
    )


class CommandRunAgain(Exception):
    """Lightning has started a process."""


@pytest.mark.parametrize("guarded", [True, False])
def test_no_rank_is_started_by_running_the_command_line_again(
    guarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the guard Lightning does so: the test would see it."""

    def popen(*args: Any, **options: Any) -> None:
        raise CommandRunAgain

    monkeypatch.setattr(subprocess_script.subprocess, "Popen", popen)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if not guarded:
        monkeypatch.setattr(train_module, "rank_environment", lambda *a: LightningEnvironment())
    pairs = TrainingPairs(
        ["a", "b"],
        [prompt_from_text("one"), prompt_from_text("two")],
        ["kind", "kinder"],
        ["rude", "ruder"],
    )
    with pytest.raises(UserError if guarded else CommandRunAgain):
        train_reward_model(
            pairs,
            None,
            model="tiny",
            directory=tmp_path,
            cache_dir=tmp_path / "cache",
            seed=0,
            peft=PeftOptions(),
            devices=2,
            strategy="ddp",
        )


def test_ranks_that_hold_different_runs_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = (fingerprint("run", learning_rate=rate, seed=0) for rate in (0.0845, 0.0785))

    def gather(everyone: list[Any], plain: Any) -> None:
        everyone[:] = [plain, other.to_plain()]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)

    class Trainer:
        world_size, global_rank = 2, 0

    with pytest.raises(DifferentRuns, match=r"rank 1 .* than rank 0: learning_rate differ"):
        SameRun(mine).setup(Trainer(), None, "fit")  # type: ignore[arg-type]
    SameRun(other).setup(Trainer(), None, "fit")  # type: ignore[arg-type]


def test_torchrun_is_refused(
    config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="are started by rmexp itself"):
        run_trial(config, directory=tmp_path / "t")


def test_the_number_of_ranks_is_not_searched(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", *quick, "trainer=choice(cpu,ddp)", "sweep.dry_run=true"])
    assert "sweep each number in a study of its own" in capsys.readouterr().err


def our_ranks() -> dict[int, int]:
    """Ranks that this process has started: number to process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if parent == os.getpid() and b"rmexp.trial.rank" in words:
                rank = re.search(rb"(?:^|\0)RANK=(\d+)", (folder / "environ").read_bytes())
                found[int(rank[1])] = int(folder.name)  # type: ignore[index]
        except (OSError, IndexError):
            continue
    return found


@pytest.fixture
def no_rank_left() -> Iterator[None]:
    yield
    assert not our_ranks()


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_a_rank_with_another_config_stops_the_trial(
    guarded: bool,
    config: TrialConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_rank_left: None,
) -> None:
    """Without the guard the trial is complete, and wrong: the fault is real."""
    start = ranks_module._start

    def start_another(task: Any, *others: Any) -> Any:
        if task.rank == 1:
            task = replace(task, config={**task.config, "learning_rate": 0.0785})
        return start(task, *others)

    monkeypatch.setattr(ranks_module, "_start", start_another)
    if not guarded:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "if 'rmexp.trial.rank' in sys.orig_argv:\n"
            "    from rmexp.reward.ranks import SameRun\n"
            "    SameRun.setup = lambda *args, **options: None\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
    record = run_trial(config, directory=tmp_path / "t")
    if guarded:
        assert record.state == "failed"
        assert "rank 1 holds another run than rank 0" in record.reason
        assert "config.learning_rate" in record.reason
        assert not (tmp_path / "t" / "model").exists()
        assert TrialRecord.read(tmp_path / "t") == record
    else:
        assert record.state == "complete", record.reason


@pytest.mark.slow
def test_two_ranks_give_what_one_gives_and_rate_once(
    config: TrialConfig, tmp_path: Path, no_rank_left: None
) -> None:
    steps: list[str] = []
    reports: list[tuple[int, float]] = []

    def report(epoch: int, value: float) -> bool:
        reports.append((epoch, value))
        return False

    two = run_trial(config, directory=tmp_path / "2", report=report, progress=steps.append)
    assert two.state == "complete", two.traceback
    asked = [int(line) for line in (tmp_path / "asked").read_text().split()]
    assert sum(asked) == two.metrics["ratings/rated"]
    assert [epoch for epoch, _ in reports] == [1, 2]
    assert steps[0] == "read"
    assert steps[-1] == "evaluate"
    alone = config.model_copy(
        update={"trainer": config.trainer.model_copy(update={"devices": 1, "strategy": "auto"})}
    )
    one = run_trial(alone, directory=tmp_path / "1")
    assert two.metrics["validation/loss"] == pytest.approx(one.metrics["validation/loss"], abs=1e-5)


@pytest.mark.slow
def test_a_killed_rank_takes_the_others_with_it(
    config: TrialConfig, tmp_path: Path, no_rank_left: None
) -> None:
    config = config.model_copy(update={"epochs": 500})

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if training and (pid := our_ranks().get(1)):
                time.sleep(1)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.1)

    killed: list[int] = []
    training: list[str] = []
    thread = threading.Thread(target=kill)
    thread.start()
    record = run_trial(
        config,
        directory=tmp_path / "t",
        progress=lambda step: training.append(step) if step == "train" else None,
    )
    thread.join()
    assert killed
    assert record.state == "failed"
    assert record.failure == "lost_worker"
    assert record.reason == "rank 1 lost: killed by SIGKILL"


RUN = re.compile(r"rank (\d) of 2 trains run:(\w+)")


def runs_of(log: Path) -> list[tuple[str, str]]:
    return sorted(RUN.findall(log.read_text()))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_ranks_under_a_sweep_hold_the_same_config_and_are_pruned_together(
    tmp_path: Path, quick: list[str], no_rank_left: None
) -> None:
    main(
        [
            "sweep",
            *quick,
            "trainer=ddp",
            "epochs=3",
            "learning_rate=tag(log,interval(1e-5,1e-1))",
            "executor.slots=1",
            "sweep.trials=4",
            "sweep.sampler.kind=random",
            "sweep.pruner.kind=percentile",
            # Keeps the best only, so that something is pruned whatever the values.
            "sweep.pruner.percentile=1",
            "sweep.pruner.startup_trials=1",
            "study=ranks",
        ]
    )
    study = load_study(tmp_path / "outputs", "ranks")
    trials = study.get_trials()
    assert {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    rates, runs = set(), set()
    for trial in trials:
        directory = tmp_path / "outputs/studies/ranks" / trial.user_attrs["directory"]
        (zero, first), (one, second) = runs_of(directory / "log.txt")
        assert (zero, one) == ("0", "1")
        assert first == second
        record = TrialRecord.read(directory)
        assert record.config["learning_rate"] == trial.params["learning_rate"]
        rates.add(record.config["learning_rate"])
        runs.add(first)
    assert len(runs) == len(rates) == len(trials)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["trainer=fsdp2"], ["trainer=fsdp", "trainer.accelerator=cpu", "peft=lora"]],
    ids=["float32", "lora in bfloat16"],
)
def test_sharded_ranks_from_the_command_line(
    words: list[str],
    tmp_path: Path,
    quick: list[str],
    no_rank_left: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    main(["train", *quick, *words])
    out = capfd.readouterr().out
    found = sorted(RUN.findall(out))
    assert [rank for rank, _ in found] == ["0", "1"]
    assert len({run for _, run in found}) == 1
    (record,) = (tmp_path / "outputs" / "runs").glob("*/record.json")
    assert TrialRecord.read(record.parent).state == "complete"
