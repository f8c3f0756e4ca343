"""QLoRA: refused by name where it cannot run. Its training is not run here: no GPU."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rmexp.backbone import quantised
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.sources import resolve_model
from rmexp.errors import UserError


def pretend(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    found = importlib.machinery.ModuleSpec("bitsandbytes", None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pretend(monkeypatch, installed=False)
    with pytest.raises(UserError, match=r"rmexp\[qlora\]"):
        quantised.check_qlora()
    pretend(monkeypatch, installed=True)
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        quantised.check_qlora()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    quantised.check_qlora()


def test_the_base_is_asked_for_in_four_bits_with_its_head_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}
    original = AutoModelForSequenceClassification.from_pretrained

    def loaded(*arguments: object, **options: object) -> object:
        asked.update(quantization_config=options.pop("quantization_config"))
        asked.update(device_map=options.pop("device_map"))
        return original(*arguments, **options)

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", loaded)
    monkeypatch.setattr("rmexp.backbone.load.check_qlora", lambda: None)
    monkeypatch.setenv("LOCAL_RANK", "3")
    path = resolve_model("tiny", tmp_path)
    made = load_sequence_classifier(path, seed=0, peft=PeftOptions(kind="qlora"))
    options = asked["quantization_config"].to_dict()
    assert options["load_in_4bit"]
    assert options["bnb_4bit_quant_type"] == "nf4"
    assert options["bnb_4bit_use_double_quant"]
    assert options["llm_int8_skip_modules"] == ["score"]
    assert asked["device_map"] == {"": 3}
    trained = [n for n, p in made.model.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "score" in n for n in trained)
    assert any("score" in n for n in trained)


def test_training_refuses_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"peft\.kind=qlora needs"):
        load_sequence_classifier(tmp_path, seed=0, peft=PeftOptions(kind="qlora"))
