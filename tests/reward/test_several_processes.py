"""Runs in processes of their own: killed and resumed, and two ranks against one."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from rmexp.reward.export import export_reward_model

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, signal, sys
import torch
from pathlib import Path
from rmexp.backbone.options import PeftOptions
from rmexp.preferences.pair import Pair, prompt_from_text
from rmexp.reward.data import TrainingPairs
from rmexp.reward.module import RewardModule
from rmexp.reward.options import LossOptions
from rmexp.reward.train import train_reward_model

options = json.loads(sys.argv[1])
kill_at = options.pop("kill_at", None)
long = options.pop("long", 0)
if kill_at is not None:
    original = RewardModule.training_step
    def step(self, batch, index):
        if self.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, index)
    RewardModule.training_step = step
count = 11
pairs = TrainingPairs(
    [f"t{i}" for i in range(count)],
    [prompt_from_text(f"question {i}") for i in range(count)],
    [f"kind answer {i}" + " more" * (i % 3 + long * (i % 2)) for i in range(count)],
    [f"rude words {i}" + " more" * (i % 2) for i in range(count)],
    margin=torch.linspace(0, 1, count).numpy(),
    target=torch.linspace(1, 0.6, count).numpy(),
    weight=torch.linspace(0.5, 2, count).numpy(),
)
kind = [f"k {i}" + " more" * (long * (i % 2)) for i in range(5)]
held = [Pair(f"v{i}", prompt_from_text(f"held {i}"), kind[i], f"r {i * 7}", "a") for i in range(5)]
for name in ("directory", "cache_dir"):
    options[name] = Path(options[name])
options["peft"] = PeftOptions(**options["peft"])
options["loss"] = LossOptions(**options.get("loss", {}))
trained = train_reward_model(
    pairs, held, seed=1, batch_pairs=4, max_length=128, learning_rate=2e-4, warmup_steps=0,
    threads=1, **options,
)
if int(os.environ.get("RANK", 0)) == 0:
    (options["directory"] / "history.json").write_text(json.dumps(trained.history))
"""


def start(folder: Path, cache: Path, ranks: int = 1, **options: Any) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    options = {"model": "tiny", "epochs": 2, "peft": {"kind": "full"}} | options
    options |= {"directory": str(folder), "cache_dir": str(cache), "devices": ranks}
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(script), json.dumps(options)], env=env, timeout=240
    ).returncode


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "model").glob("*.safetensors")
    return load_file(path)


def test_kill_9_in_the_middle_of_an_epoch_then_resume_is_bit_equal(tmp_path: Path, cache: Path):
    options = {"checkpoint_steps": 1, "epochs": 3}
    assert start(tmp_path / "whole", cache, **options) == 0
    assert start(tmp_path / "cut", cache, kill_at=5, **options) == -9
    assert not (tmp_path / "cut" / "model").exists()
    assert start(tmp_path / "cut", cache, resume=True, **options) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[..., Path]:
    """The folder of a run of one rank; of the same options, of the same run."""
    made: dict[str, Path] = {}

    def run(**options: Any) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("one")
            assert start(made[key], cache, **options) == 0
        return made[key]

    return run


RANKS = [
    *itertools.product(("tiny", "tiny_encoder"), ("full", "lora"), ("ddp", "fsdp2")),
    ("tiny", "head_only", "ddp"),
    ("tiny_encoder", "last_k", "fsdp2"),
]


@pytest.mark.parametrize(("model", "kind", "strategy"), RANKS)
def test_two_ranks_equal_one(
    model: str,
    kind: str,
    strategy: str,
    tmp_path: Path,
    cache: Path,
    one_rank: Callable[..., Path],
):
    """11 pairs in batches of 4: the last batch leaves the ranks unequal shares."""
    options: dict[str, Any] = {"peft": {"kind": kind, "last_k": 1}, "model": model}
    if kind in ("full", "last_k"):
        options["loss"] = {"label_smoothing": 0.1, "center_coefficient": 0.2}
    alone = one_rank(**options)
    assert start(tmp_path, cache, ranks=2, strategy=strategy, **options) == 0
    one, two = weights(alone), weights(tmp_path)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    first, second = (json.loads((f / "history.json").read_text()) for f in (alone, tmp_path))
    for old, new in zip(first, second, strict=True):
        for key in old:
            if not key.endswith("_per_second"):
                assert new[key] == pytest.approx(old[key], abs=1e-5), key


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_ranks_take_a_step_in_parts(
    strategy: str, tmp_path: Path, cache: Path, one_rank: Callable[..., Path]
):
    """In parts of one pair a rank; of the last batch one rank's second part is empty."""
    alone = one_rank()
    assert start(tmp_path, cache, ranks=2, strategy=strategy, micro_batch_pairs=1) == 0
    one, two = weights(alone), weights(tmp_path)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    first, second = (json.loads((f / "history.json").read_text()) for f in (alone, tmp_path))
    for old, new in zip(first, second, strict=True):
        for key in ("step", "train/loss", "train/gradient_norm", "validation/loss"):
            assert new[key] == pytest.approx(old[key], abs=1e-5), key


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_sharded_ranks_with_unequal_texts(kind: str, tmp_path: Path, cache: Path):
    """One rank's texts are long and cut into more rectangles, of which each gathers weights."""
    options = {"peft": {"kind": kind}, "long": 15, "shuffle": False, "token_budget": 110}
    assert start(tmp_path / "one", cache, **options) == 0
    assert start(tmp_path / "two", cache, ranks=2, strategy="fsdp2", **options) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    first, second = (
        json.loads((tmp_path / n / "history.json").read_text())[-1] for n in ("one", "two")
    )
    assert second["validation/loss"] == pytest.approx(first["validation/loss"], abs=1e-5)


@pytest.mark.parametrize("parts", [False, True], ids=["one file", "a part a rank"])
def test_a_sharded_run_is_killed_exported_and_resumed(parts: bool, tmp_path: Path, cache: Path):
    kind = "lora"
    options = {"checkpoint_steps": 1, "strategy": "fsdp2", "peft": {"kind": kind}}
    options["sharded_checkpoints"] = parts
    assert start(tmp_path / "whole", cache, ranks=2, **options) == 0
    assert start(tmp_path / "cut", cache, ranks=2, kill_at=4, **options) != 0
    checkpoint = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert checkpoint.is_dir() == parts
    assert len(list(checkpoint.glob("*.distcp"))) == (2 if parts else 0)
    assert start(tmp_path / "one", cache, kill_at=4, checkpoint_steps=1, peft={"kind": kind}) == -9
    exported = [
        export_reward_model(folder, tmp_path / f"out{i}", merge=True, cache_dir=cache)
        for i, folder in enumerate([checkpoint, tmp_path / "one" / "checkpoints" / "last.ckpt"])
    ]
    sharded, single = (load_file(folder / "model.safetensors") for folder in exported)
    assert sharded.keys() == single.keys()
    assert all(torch.allclose(sharded[n], single[n], atol=1e-5) for n in single)
    plain = AutoModelForSequenceClassification.from_pretrained(exported[0])
    assert plain.config.num_labels == 1
    assert start(tmp_path / "cut", cache, ranks=2, resume=True, **options) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.allclose(whole[n], resumed[n], atol=1e-6) for n in whole)
