from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.errors import UserError


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
def test_the_head_is_drawn_from_the_seed_alone(model: str, request: pytest.FixtureRequest):
    path = request.getfixturevalue(model)

    def head(seed: int) -> torch.Tensor:
        inner = load_sequence_classifier(path, seed=seed).inner
        return (inner.score if hasattr(inner, "score") else inner.classifier).weight.detach()

    torch.manual_seed(1)
    first = head(5)
    torch.rand(100)
    assert torch.equal(first, head(5))
    assert not torch.equal(first, head(6))


def test_loading_leaves_the_callers_random_state(tiny: Path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_sequence_classifier(tiny, seed=1, peft=PeftOptions(kind="lora"))
    assert torch.equal(torch.rand(1), expected)


def test_one_logit_always(tiny: Path):
    inner = load_sequence_classifier(tiny, seed=0).inner
    assert inner.config.num_labels == 1
    assert inner.score.out_features == 1


def test_a_classifier_of_two_labels_is_refused(tiny: Path, tmp_path: Path):
    AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="2 labels"):
        load_sequence_classifier(tmp_path, seed=0)


def test_a_trained_head_is_kept(tiny: Path, tmp_path: Path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    model.score.weight.data.fill_(0.125)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, tmp_path)
    loaded = load_sequence_classifier(tmp_path, seed=0)
    assert (loaded.inner.score.weight == 0.125).all()


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["full", "lora", "head_only", "last_k"])
def test_what_is_trained(model: str, kind: str, request: pytest.FixtureRequest):
    path = request.getfixturevalue(model)
    classifier = load_sequence_classifier(path, seed=0, peft=PeftOptions(kind=kind, last_k=1))
    trained = {n for n, p in classifier.model.named_parameters() if p.requires_grad}
    head = "score" if model == "tiny" else "classifier"
    assert any(head in name for name in trained)
    layers = {n for n in trained if ".layer" in n}
    if kind == "full":
        assert len(trained) == len(list(classifier.model.parameters()))
    elif kind == "lora":
        assert layers
        assert all("lora_" in name for name in layers)
        assert not any("embed" in name for name in trained)
    elif kind == "head_only":
        assert not layers
    else:
        assert layers
        assert all(".1." in name for name in layers)


def test_bf16_keeps_trained_weights_and_the_head_in_float32(tiny: Path):
    for kind in ("full", "lora", "last_k"):
        options = PeftOptions(kind=kind, last_k=1)
        classifier = load_sequence_classifier(tiny, precision="bf16", seed=0, peft=options)
        for name, weight in classifier.model.named_parameters():
            if weight.requires_grad or "score" in name:
                assert weight.dtype == torch.float32, name
            else:
                assert weight.dtype == torch.bfloat16, name


def test_loading_quantises_nothing(tiny: Path, tmp_path: Path):
    classifier = load_sequence_classifier(tiny, seed=0)
    assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}
    shutil.copytree(tiny, tmp_path / "m")
    config = json.loads((tiny / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantised"):
        load_sequence_classifier(tmp_path / "m", seed=0)


def test_a_checkpoint_without_trunk_weights_is_refused(tiny: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights.*up_proj"):
        load_sequence_classifier(tmp_path / "m", seed=0)


def test_options_are_checked(tiny: Path):
    with pytest.raises(UserError, match="this model has 2 layers"):
        load_sequence_classifier(tiny, seed=0, peft=PeftOptions(kind="last_k", last_k=3))
    with pytest.raises(UserError, match=r"peft\.targets"):
        load_sequence_classifier(tiny, seed=0, peft=PeftOptions(kind="lora", targets=("nope",)))
    with pytest.raises(UserError, match=r"peft\.rank"):
        PeftOptions(rank=0)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_sequence_classifier("owner/model-that-is-nowhere", seed=0)


def test_dropout_is_off(tiny_encoder: Path):
    classifier = load_sequence_classifier(tiny_encoder, seed=0)
    classifier.model.train()
    rates = [m.p for m in classifier.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates
    assert not any(rates)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs the maps of Linux")
def test_weights_are_mapped_from_their_file(tiny: Path) -> None:
    """So trials that run at once share them, where their dtype is the file's."""
    model = load_sequence_classifier(tiny, seed=0).trunk
    mapped = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str((tiny / "model.safetensors").resolve()))
    ]
    assert all(any(w.data_ptr() in part for part in mapped) for w in model.parameters())
