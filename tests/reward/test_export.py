from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import (
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    TaskType,
    get_peft_model,
)
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rmexp
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.sharding import _partial_checkpoints
from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
from rmexp.preferences.pair import prompt_from_text
from rmexp.reward.checkpoint import checkpoint_weights
from rmexp.reward.checkpoint_files import MADE_OF
from rmexp.reward.data import TrainingPairs
from rmexp.reward.export import export_reward_model
from rmexp.reward.model import CARD, HOW_IT_WAS_MADE, RewardModel, load_reward_model

PROMPTS, RESPONSES = ["Hi", "Why is the sky blue?"], ["Hello.", "Light scatters."]


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_an_exported_model_scores_as_before(
    model: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    path = request.getfixturevalue(model)
    classifier = load_sequence_classifier(path, seed=3, peft=PeftOptions(kind=kind))
    for name, weight in classifier.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    template = TextTemplate(
        classifier.tokenizer, name="auto", max_length=128, causal=classifier.causal
    )
    made = RewardModel(classifier, template, base=str(path))
    expected = made.score(PROMPTS, RESPONSES)
    made.save(tmp_path / "saved")
    with (tmp_path / "saved" / CARD).open("a") as stream:
        stream.write(f"\n{HOW_IT_WAS_MADE}\n\n- gamma = 1\n")
    out = export_reward_model(tmp_path / "saved", tmp_path / "out", merge=True)
    assert not (out / "adapter_config.json").exists()
    assert load_reward_model(out).score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(out)
    assert plain.config.num_labels == 1
    card = (out / CARD).read_text()
    assert card.endswith(f"\n{HOW_IT_WAS_MADE}\n\n- gamma = 1\n")
    assert card.count("# Reward model") == 1
    assert "rmexp" not in (out / "config.json").read_text()


def test_a_taken_target_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="exists already"):
        export_reward_model(tmp_path, tmp_path)


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_a_card_says_of_a_foreign_model_only_what_is_known(kind: str, tiny: Path, tmp_path: Path):
    foreign = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    if kind == "adapter":
        foreign = get_peft_model(foreign, LoraConfig(r=2, task_type=TaskType.SEQ_CLS))
    foreign.save_pretrained(tmp_path / "f")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "f")
    out = export_reward_model(tmp_path / "f", tmp_path / "out")
    card = (out / CARD).read_text()
    assert "Trained" not in card
    assert "rmexp, which did not train it" in " ".join(card.split())
    expected = load_reward_model(tmp_path / "f").score(PROMPTS, RESPONSES)
    assert load_reward_model(out).score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-6)

    made = load_reward_model(out)
    made.base = "tiny"
    card = (made.save(tmp_path / "own") / CARD).read_text()
    assert "Trained with rmexp from `tiny`" in card


def test_an_adapter_stays_one_unless_merged(tiny: Path, tmp_path: Path, cache: Path):
    classifier = load_sequence_classifier(tiny, seed=3, peft=PeftOptions(kind="lora"))
    for name, weight in classifier.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    template = TextTemplate(classifier.tokenizer, name="auto", max_length=128, causal=True)
    made = RewardModel(classifier, template, base="tiny")
    expected = made.score(PROMPTS, RESPONSES)
    made.save(tmp_path / "saved")
    out = export_reward_model(tmp_path / "saved", tmp_path / "out", cache_dir=cache)
    assert not list(out.glob("model*.safetensors"))
    plain = AutoPeftModelForSequenceClassification.from_pretrained(out, num_labels=1).eval()
    assert plain_scores(plain, made) == pytest.approx(expected, abs=1e-5)
    assert (out / "tokenizer.json").exists()
    assert "library_name: peft" in (out / "README.md").read_text()


def plain_scores(plain: Any, made: RewardModel) -> list[float]:
    tokens = made.template.encode([prompt_from_text(p) for p in PROMPTS], RESPONSES)
    with torch.inference_mode():
        return [plain(input_ids=torch.from_numpy(t.ids)[None].long()).logits.item() for t in tokens]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_checkpoint_in_the_middle_of_a_run_is_exported(
    kind: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from rmexp.reward import train as module

    monkeypatch.setattr(module, "remove_checkpoints", lambda folder: None)
    texts = [f"answer {i}" for i in range(8)]
    pairs = TrainingPairs(
        [f"p{i}" for i in range(8)],
        [prompt_from_text(f"question {i}") for i in range(8)],
        texts,
        [f"other {t}" for t in texts],
    )
    trained = module.train_reward_model(
        pairs,
        None,
        model="tiny",
        directory=tmp_path,
        cache_dir=cache,
        seed=1,
        peft=PeftOptions(kind=kind),
        epochs=2,
        batch_pairs=4,
        max_length=64,
        # The schedule's last step has a rate of zero: the checkpoint before it holds its weights.
        warmup_steps=0,
        learning_rate=1e-3,
        checkpoint_steps=3,
    )
    source = tmp_path / "checkpoints" / "last.ckpt"
    kept = torch.load(source, weights_only=True)["state_dict"]
    out = export_reward_model(source, tmp_path / "out", cache_dir=cache)
    model = load_reward_model(out, cache_dir=cache)
    named = dict(model.classifier.model.named_parameters())
    assert kept
    assert all(torch.equal(named[n.removeprefix("model.")], w) for n, w in kept.items())
    ended = load_reward_model(trained.path, cache_dir=cache).score(PROMPTS, RESPONSES)
    assert model.score(PROMPTS, RESPONSES) != pytest.approx(ended, abs=1e-6)

    (source.parent / MADE_OF).unlink()
    with pytest.raises(UserError, match=MADE_OF):
        export_reward_model(source, tmp_path / "again", cache_dir=cache)


def test_a_foreign_table_of_contents_runs_nothing(tmp_path: Path):
    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / ".metadata").write_bytes(pickle.dumps(Foreign()))
    with pytest.raises(UserError, match=r"asks for posix\.mkdir"):
        checkpoint_weights(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["table of contents", "part"])
def test_going_on_from_a_foreign_sharded_checkpoint_runs_nothing(where: str, tmp_path: Path):
    import torch.distributed.checkpoint as parts

    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    strategy = SimpleNamespace(model=model, optimizers=[optimizer], broadcast=lambda path: path)
    load = _partial_checkpoints().load_checkpoint
    state = {
        "state_dict": get_model_state_dict(model),
        "optimizer_0": get_optimizer_state_dict(model, optimizer),
    }
    expected = {name: weight.clone() for name, weight in state["state_dict"].items()}
    saved = tmp_path / "last.ckpt"
    parts.save(state, checkpoint_id=saved, no_dist=True)
    torch.save({"rest": 1}, saved / "meta.pt")
    with torch.no_grad():
        model.weight.zero_()
    assert load(strategy, saved) == {"rest": 1}
    assert all(torch.equal(w, expected[n]) for n, w in model.state_dict().items())

    shutil.rmtree(saved)
    if where == "part":
        state["optimizer_0"]["param_groups"][0]["lr"] = Foreign()
    parts.save(state, checkpoint_id=saved, no_dist=True)
    if where == "table of contents":
        (saved / ".metadata").write_bytes(pickle.dumps(Foreign()))
    with pytest.raises(UserError, match=str(saved)):
        load(strategy, saved)
    assert not (tmp_path / "ran").exists()


def test_nothing_that_is_saved_or_loaded_is_a_pickle(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nor is the code that a model brings along run."""
    code = "".join(p.read_text() for p in Path(rmexp.__file__).parent.rglob("*.py"))
    assert not re.search(r"trust_remote_code\s*=\s*True|weights_only\s*=\s*False", code)
    classifier = load_sequence_classifier(tiny, seed=3, peft=PeftOptions(kind="lora"))
    template = TextTemplate(classifier.tokenizer, name="auto", max_length=128, causal=True)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a pickle")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    folder = RewardModel(classifier, template, base=str(tiny)).save(tmp_path / "saved")
    out = export_reward_model(folder, tmp_path / "out", merge=True)
    rmexp.load_reward_model(out).score(PROMPTS, RESPONSES)
    kinds = {p.suffix for f in (folder, out) for p in f.iterdir()}
    assert kinds <= {".safetensors", ".json", ".md", ".jinja"}


def test_a_model_that_brings_code_is_refused(tiny: Path, tmp_path: Path):
    folder = tmp_path / "foreign"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="foreign"):
        rmexp.load_reward_model(folder)
    assert not (tmp_path / "ran").exists()
