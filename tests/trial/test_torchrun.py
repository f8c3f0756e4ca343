"""One trial on several machines, which torchrun groups of one process each stand for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rmexp.cli import main
from rmexp.trial.record import TrialRecord

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    *("rules.ids=[answers_alarming_wording,no_invented_intent]", "r=1", "epochs=2"),
    *("data.limit=40", "rater=custom", "rater.target=word_rater:WordRater", "model=tiny"),
    *("trainer=ddp", "trainer.threads=1", "tracker=none"),
]
ENVIRONMENT = {
    "TORCHELASTIC_RUN_ID": "none",
    "LOCAL_RANK": "0",
    "RANK": "0",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "trainer.devices=2"],
            "trainer.devices=2, trainer.nodes=1: torchrun has started 2 on each of 2 machines; "
            "use --nproc-per-node=2 --nnodes=1",
        ),
        (["train", "trainer.devices=4", "trainer.nodes=1"], "use --nproc-per-node=4 --nnodes=1"),
        (["sweep", "gamma=choice(0,1)", "trainer.devices=2"], "would be one sweep a rank"),
    ],
)
def test_what_torchrun_has_not_been_asked_for_is_refused(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([words[0], *WORDS, *words[1:], f"cache_dir={tmp_path}/cache"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train"], "start the ranks on all machines by 'torchrun --nnodes=2 --nproc-per-node=2 "),
        (["sweep", "gamma=choice(0,1)"], "a trial of a sweep runs on one machine"),
    ],
)
def test_several_machines_want_torchrun(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([command[0], *WORDS, *command[1:], "trainer.nodes=2"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def _run_in_two_groups(folder: Path, *words: str) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    doubles = ROOT / "tests" / "doubles"
    groups = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                *("--nproc-per-node=1", f"--node-rank={rank}", "--master-addr=127.0.0.1"),
                *(f"--master-port={port}", "-m", "rmexp", "train", *WORDS, "trainer.nodes=2"),
                *("trainer.devices=1", *words),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{doubles}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [group.communicate(timeout=240)[0] for group in groups]
    return [(group.returncode, text) for group, text in zip(groups, said, strict=True)]


def _only_run(folder: Path) -> Path:
    (run,) = (folder / "outputs" / "runs").iterdir()
    return run


@pytest.mark.slow
def test_two_machines_train_the_model_of_one_with_two_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    ended = _run_in_two_groups(two, f"cache_dir={tmp_path}/two/cache")
    assert [code for code, _ in ended] == [0, 0], ended
    # Rank 0 alone tells.
    assert ["model and record" in text for _, text in ended] == [True, False], ended
    assert TrialRecord.read(_only_run(two)).state == "complete"

    monkeypatch.chdir(one)
    main(["train", *WORDS, "trainer.devices=2", f"cache_dir={tmp_path}/one/cache"])
    weights = [load_file(_only_run(f) / "model" / "model.safetensors") for f in (two, one)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_a_failure_before_training_ends_all_ranks(tmp_path: Path) -> None:
    ended = _run_in_two_groups(tmp_path, "rater.target=word_rater:Missing")
    assert ended[0][0] != 0
    assert "word_rater" in ended[0][1]
    assert "model and record" not in ended[1][1]
