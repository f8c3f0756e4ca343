from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.text import TextTemplate
from rmexp.errors import UserError
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
    out = export_reward_model(tmp_path / "saved", tmp_path / "out")
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
