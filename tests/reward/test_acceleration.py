"""Gradient checkpointing and compiled layers: the same losses and weights as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils import checkpoint

from rmexp.backbone import acceleration
from rmexp.backbone.options import PeftOptions
from rmexp.errors import UserError
from rmexp.preferences.pair import prompt_from_text
from rmexp.reward.data import TrainingPairs
from rmexp.reward.train import TrainedModel, train_reward_model

PAIRS = TrainingPairs(
    [f"p{i}" for i in range(8)],
    [prompt_from_text(f"question {i}") for i in range(8)],
    [f"kind answer {i}" + " more" * (i % 3) for i in range(8)],
    [f"rude words {i}" for i in range(8)],
)


def run(folder: Path, cache: Path, threads: int = 1, **options: Any) -> TrainedModel:
    return train_reward_model(
        PAIRS,
        None,
        directory=folder,
        cache_dir=cache,
        seed=1,
        batch_pairs=4,
        max_length=64,
        learning_rate=1e-3,
        warmup_steps=0,
        threads=threads,
        **{"model": "tiny", "epochs": 2, **options},
    )


def same(first: TrainedModel, second: TrainedModel, atol: float) -> None:
    for old, new in zip(first.history, second.history, strict=True):
        assert new["train/loss"] == pytest.approx(old["train/loss"], abs=atol)
    assert first.path is not None
    assert second.path is not None
    (one,), (two,) = (list(t.path.glob("*.safetensors")) for t in (first, second))
    old_weights, new_weights = load_file(one), load_file(two)
    assert old_weights.keys() == new_weights.keys()
    assert all(torch.allclose(old_weights[n], new_weights[n], atol=atol) for n in old_weights)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("model", "peft"),
    [
        ("tiny", PeftOptions()),
        ("tiny", PeftOptions(kind="lora")),
        ("tiny", PeftOptions(kind="last_k", last_k=1)),
        ("tiny_encoder", PeftOptions()),
    ],
    ids=lambda v: getattr(v, "kind", v),
)
def test_gradient_checkpointing_changes_no_loss(
    model: str,
    peft: PeftOptions,
    threads: int,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"model": model, "peft": peft, "threads": threads}
    plain = run(tmp_path / "plain", cache, **options)
    calls = []
    original = checkpoint.checkpoint

    def counted(*arguments: Any, **others: Any) -> Any:
        calls.append(1)
        return original(*arguments, **others)

    monkeypatch.setattr(checkpoint, "checkpoint", counted)
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted, raising=False)
    spared = run(tmp_path / "spared", cache, gradient_checkpointing=True, **options)
    assert calls
    same(plain, spared, 1e-6)


@pytest.mark.slow
def test_compiled_layers_change_no_loss(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers are traced, forward and backward; C++ is not made of them, which takes minutes."""
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: name)
    original, compiled_layers = torch.nn.Module.compile, []

    def traced(self: torch.nn.Module, **options: Any) -> None:
        compiled_layers.append(self)
        original(self, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    plain = run(tmp_path / "plain", cache, epochs=1)
    compiled = run(tmp_path / "compiled", cache, epochs=1, compile_model=True)
    assert len(compiled_layers) == 2
    same(plain, compiled, 1e-5)


def test_compiling_without_a_compiler_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"trainer\.compile=true needs a C\+\+ compiler"):
        run(tmp_path, cache, compile_model=True)
