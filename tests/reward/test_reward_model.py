from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rmexp
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
from rmexp.preferences.pair import Message, prompt_from_text
from rmexp.reward.losses import NonFiniteError
from rmexp.reward.model import RewardModel, load_reward_model

PROMPTS = [
    "Hi",
    (Message("user", "a"), Message("assistant", "b"), Message("user", "word " * 30)),
    "How do I boil an egg?",
    "Hi",
    "x " * 50,
]
RESPONSES = ["Hello there.", "No.", "Boil it for nine minutes. " * 5, "Go away!", "Fine."]


def reward_model(path: Path, kind: str = "full", name: Any = "auto", **options: Any) -> RewardModel:
    classifier = load_sequence_classifier(
        path, seed=3, peft=PeftOptions(kind=kind, last_k=1), **options
    )
    for parameter_name, weight in classifier.model.named_parameters():
        if "lora_B" in parameter_name:  # adapters start at zero: move them, as training would
            torch.nn.init.normal_(weight, std=0.1)
    template = TextTemplate(
        classifier.tokenizer, name=name, max_length=256, causal=classifier.causal
    )
    return RewardModel(classifier, template, base=str(path))


def test_scoring_counts_the_texts_that_it_cuts(tiny: Path):
    made = reward_model(tiny)
    made.template = TextTemplate(
        made.classifier.tokenizer, name="plain", max_length=40, causal=True
    )
    made.score(["q", "q", "q" * 60, "q"], ["yes", "yes", "no", "n" * 60])
    assert made.how_scored == {
        "template": "plain",
        "max_length": 40,
        "precision": "32",
        "texts": 3,  # each once
        "texts_cut": 2,
        "responses_cut": 1,
    }
    made.score(["q"], ["yes"])
    assert made.how_scored["texts_cut"] == 0


def test_no_more_tokens_are_read_than_the_model_has_positions_for(
    tiny_encoder: Path, tmp_path: Path
):
    folder = reward_model(tiny_encoder).save(tmp_path / "model")
    limit = reward_model(tiny_encoder).classifier.longest
    assert limit is not None
    assert load_reward_model(folder, max_length=limit).template.max_length == limit
    with pytest.raises(UserError, match=f"max_length={limit + 1}: .* positions for {limit} tokens"):
        load_reward_model(folder, max_length=limit + 1)


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
@pytest.mark.parametrize("kind", ["full", "lora", "head_only", "last_k"])
def test_a_saved_folder_gives_equal_scores_everywhere(
    model: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    made = reward_model(request.getfixturevalue(model), kind)
    expected = made.score(PROMPTS, RESPONSES)
    assert len(set(expected.round(6))) == 5
    folder = made.save(tmp_path / "model")

    assert load_reward_model(folder).score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-6)

    auto = (
        AutoPeftModelForSequenceClassification
        if kind == "lora"
        else (AutoModelForSequenceClassification)
    )
    plain = auto.from_pretrained(folder, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for padding_side in ("right", "left"):
        tokens = made.template.encode(
            [prompt_from_text(p) if isinstance(p, str) else p for p in PROMPTS], RESPONSES
        )
        rows = [
            {
                "input_ids": t.ids.tolist(),
                **(
                    {"token_type_ids": [int(i >= t.second_segment) for i in range(len(t.ids))]}
                    if t.has_types
                    else {}
                ),
            }
            for t in tokens
        ]
        if model == "tiny_encoder" and padding_side == "left":
            continue  # absolute positions: plain BERT is only right with padding on the right
        batch = tokenizer.pad(rows, padding_side=padding_side, return_tensors="pt")
        with torch.inference_mode():
            scores = plain(**batch).logits[:, 0].numpy()
        assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny", "score.weight"),
        ("tiny_encoder", "classifier.bias"),
        ("tiny_encoder", "bert.pooler.dense.weight"),
    ],
)
def test_a_model_that_lost_its_head_does_not_score_at_random(
    model: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
):
    made = reward_model(request.getfixturevalue(model))
    weights = {n: w for n, w in made.classifier.model.state_dict().items() if n != name}
    folder = made.save(tmp_path / "m", weights)
    with pytest.raises(UserError, match=f"lacks 1 weights behind its layers, first {name}"):
        load_reward_model(folder)


def test_an_adapter_holds_the_pooler_that_its_base_lacks(tiny_encoder: Path, tmp_path: Path):
    shutil.copytree(tiny_encoder, tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    weights = {n: w for n, w in load_file(path).items() if "pooler" not in n}
    save_file(weights, path, metadata={"format": "pt"})
    made = reward_model(tmp_path / "base", "lora")
    expected = made.score(PROMPTS, RESPONSES)
    found = load_reward_model(made.save(tmp_path / "m"))
    assert found.score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-6)


def test_encoder_scores_equal_plain_transformers_from_the_raw_texts(
    tiny_encoder: Path, tmp_path: Path
):
    made = reward_model(tiny_encoder)
    folder = made.save(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = tokenizer(["Hi", "Why so?"], ["Yes", "No no"], padding=True, return_tensors="pt")
    expected = plain(**batch).logits[:, 0].tolist()
    assert made.score(["Hi", "Why so?"], ["Yes", "No no"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
def test_a_score_does_not_depend_on_its_batch(model: str, request: pytest.FixtureRequest):
    made = reward_model(request.getfixturevalue(model))
    together = made.score(PROMPTS, RESPONSES)
    alone = np.concatenate([made.score([p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    made.token_budget = 300
    small = made.score(PROMPTS[::-1], RESPONSES[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx(small, abs=1e-5)


def damaged_tokenizer(tiny: Path, folder: Path, **settings: Any) -> Path:
    shutil.copytree(tiny, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    "settings",
    [{"pad_token": None}, {"pad_token": "</s>"}, {"padding_side": "left"}],
    ids=["no pad", "pad is eos", "pads left"],
)
@pytest.mark.parametrize("name", ["chat", "plain"])
def test_the_tokenizers_padding_habits_change_no_score(
    settings: dict[str, Any], name: str, tiny: Path, tmp_path: Path
):
    expected = reward_model(tiny, name=name).score(PROMPTS, RESPONSES)
    made = reward_model(damaged_tokenizer(tiny, tmp_path / "t", **settings), name=name)
    assert made.score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    folder = made.save(tmp_path / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = made.template.encode(
        [prompt_from_text(p) if isinstance(p, str) else p for p in PROMPTS], RESPONSES
    )
    batch = AutoTokenizer.from_pretrained(folder).pad(
        [{"input_ids": t.ids.tolist()} for t in tokens], return_tensors="pt"
    )
    scores = plain(**batch).logits[:, 0].detach().numpy()
    assert scores == pytest.approx(expected, abs=1e-5)


def test_eos_inside_the_prompt_does_not_end_the_text(tiny: Path, tmp_path: Path):
    """With pad = eos, pooling by ids would read the first eos: both sides would score the same."""
    made = reward_model(damaged_tokenizer(tiny, tmp_path / "t", pad_token="</s>"), name="chat")
    scores = made.score([PROMPTS[1], PROMPTS[1]], ["good", "bad"])
    assert abs(scores[0] - scores[1]) > 1e-6


def test_a_pad_token_that_stays_eos_ends_no_text(tiny: Path, tmp_path: Path):
    """Where the vocabulary has no other to spare: pooling by ids would read inside the prompt."""
    folder = damaged_tokenizer(tiny, tmp_path / "t", pad_token="</s>")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<pad>", "<|tool|>"))
    made = reward_model(folder, name="chat")
    assert made.classifier.pad_id == made.classifier.tokenizer.eos_token_id
    expected = reward_model(tiny, name="chat")
    # Alone and beside longer texts, which pad it; with and without another response to its prompt.
    for others in (slice(0, 0), slice(4, 5), slice(0, 5)):
        prompts, responses = [PROMPTS[1], *PROMPTS[others]], ["Good.", *RESPONSES[others]]
        assert made.score(prompts, responses) == pytest.approx(
            expected.score(prompts, responses), abs=1e-5
        )
    good, bad = made.score([PROMPTS[1]] * 2, ["Good.", "Bad, and longer."])
    assert abs(good - bad) > 1e-4


def test_identical_texts_run_once(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    made = reward_model(tiny)
    encoded: list[str] = []
    original = made.template.encode
    monkeypatch.setattr(
        made.template, "encode", lambda p, r: (encoded.extend(r), original(p, r))[1]
    )
    scores = made.score(["a", "b", "a"], ["x", "x", "x"])
    assert len(encoded) == 2
    assert scores[0] == scores[2] != scores[1]


def test_a_nan_score_names_its_row(tiny: Path):
    made = reward_model(tiny)
    made.classifier.inner.score.weight.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="rows 0, 1"):
        made.score(["a", "b"], ["x", "y"])


def test_wrong_numbers_and_nothing(tiny: Path):
    made = reward_model(tiny)
    assert made.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="2 prompts for 1"):
        made.score(["a", "b"], ["x"])


def test_what_is_saved_is_safetensors_with_settings_and_a_card(tiny: Path, tmp_path: Path):
    folder = reward_model(tiny, name="plain").save(tmp_path / "m")
    names = {p.name for p in folder.iterdir()}
    assert {"model.safetensors", "rmexp_reward.json", "README.md", "tokenizer.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".pickle"))]
    loaded = rmexp.load_reward_model(folder)
    assert (loaded.template.name, loaded.template.max_length) == ("plain", 256)


def test_an_adapter_holds_adapters_and_head_only(tiny: Path, tmp_path: Path):
    from safetensors import safe_open

    folder = reward_model(tiny, "lora").save(tmp_path / "m")
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        names = list(weights.keys())
    assert any("score" in n for n in names)
    assert all("lora_" in n or "score" in n for n in names)


def adapter_bytes(hidden: int, inner: int, keys: int, layers: int, rank: int) -> int:
    """Of a Llama's LoRA on all linear layers and its head, by the arithmetic of the docs."""
    attention = 2 * (hidden + hidden) + 2 * (hidden + keys)
    return 4 * (layers * rank * (attention + 3 * (hidden + inner)) + hidden)


def test_an_adapter_is_as_large_as_the_docs_say(tiny: Path, tmp_path: Path):
    file = reward_model(tiny, "lora").save(tmp_path / "m") / "adapter_model.safetensors"
    expected = adapter_bytes(hidden=64, inner=128, keys=32, layers=2, rank=8)
    assert sum(w.nbytes for w in load_file(file).values()) == expected
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == header + expected
    docs = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text()
    for rank, models, said in ((8, 1, 0.2), (64, 1, 0.8), (8, 60, 7.0), (64, 60, 42.0)):
        of_8b = adapter_bytes(hidden=4096, inner=14336, keys=1024, layers=32, rank=rank)
        assert f"{of_8b / 1e6:.0f} MB at `peft.rank={rank}`" in docs
        assert models * (of_8b + 20e6) < said * 1e9
        assert f"under {said:g} GB" in docs


def test_an_adapter_finds_its_base_by_name_on_another_machine(cache: Path, tmp_path: Path):
    from rmexp.backbone.sources import resolve_model

    made = reward_model(Path(resolve_model("tiny", cache)), "lora")
    made.base = "tiny"
    folder = made.save(tmp_path / "m")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/another/machine"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    loaded = load_reward_model(folder, cache_dir=cache)
    assert loaded.score(PROMPTS, RESPONSES) == pytest.approx(
        made.score(PROMPTS, RESPONSES), abs=1e-6
    )


def test_a_foreign_reward_model_keeps_its_head(tiny: Path, tmp_path: Path):
    foreign = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    foreign.save_pretrained(tmp_path / "f")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "f")
    loaded = load_reward_model(tmp_path / "f")
    assert torch.equal(loaded.classifier.inner.score.weight, foreign.score.weight)


def test_a_model_without_a_head_does_not_score_at_random(tiny: Path):
    with pytest.raises(UserError, match="no reward model"):
        load_reward_model(tiny)


def test_loading_is_in_float32_unless_asked(tiny: Path, tmp_path: Path):
    folder = reward_model(tiny).save(tmp_path / "m")
    weights = load_reward_model(folder).classifier.model.parameters()
    assert {w.dtype for w in weights} == {torch.float32}
    low = load_reward_model(folder, precision="bf16")
    assert low.classifier.inner.score.weight.dtype == torch.float32
    expected = load_reward_model(folder).score(PROMPTS, RESPONSES)
    assert low.score(PROMPTS, RESPONSES) == pytest.approx(expected, abs=0.05)


def test_an_unwritable_folder_is_a_user_error(tiny: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        reward_model(tiny).save(tmp_path / "file" / "m")
