from __future__ import annotations

from typing import Any

import pytest
import small_models
import torch
from small_models import classifier_of
from torch import nn
from transformers import (
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from rmexp.backbone.classifier import Classifier, layers_of
from rmexp.backbone.first_token import read_first_token_only
from rmexp.backbone.load import load_sequence_classifier, replica

SIZES: dict[str, Any] = {
    **small_models.SIZES,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=64),
    "electra": ElectraConfig(**SIZES, embedding_size=32),
}


def run(classifier: Classifier) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    ids = torch.randint(1, 90, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, 5:] = mask[2, 7:] = 0
    classifier.model.zero_grad()
    scores = classifier.model(input_ids=ids, attention_mask=mask).logits[:, 0]
    (scores * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    return scores.detach(), [p.grad for p in classifier.model.parameters()]


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_and_gradients_stay_and_one_token_is_run(name: str) -> None:
    classifier = classifier_of(CONFIGS[name], causal=False)
    scores, gradients = run(classifier)
    assert read_first_token_only(classifier)
    tokens: list[int] = []
    layers_of(classifier.inner)[-1].intermediate.register_forward_hook(
        lambda module, inputs, output: tokens.append(inputs[0].shape[1])
    )
    found, new = run(classifier)
    assert tokens == [1]
    assert torch.allclose(found, scores, atol=1e-5)
    for a, b in zip(new, gradients, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-4, rtol=1e-4)


class MeanHead(nn.Module):
    """Reads all tokens."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        mean = features.mean(dim=1, keepdim=True)
        found: torch.Tensor = self.head(mean)
        return found


def test_a_head_that_reads_all_tokens_gets_all() -> None:
    classifier = classifier_of(CONFIGS["roberta"], causal=False)
    classifier.model.classifier = MeanHead(classifier.model.classifier)
    scores, _ = run(classifier)
    assert not read_first_token_only(classifier)
    assert torch.equal(run(classifier)[0], scores)


def test_layers_built_otherwise_are_left_alone() -> None:
    config = DistilBertConfig(
        vocab_size=90, dim=32, hidden_dim=48, n_layers=2, n_heads=4, num_labels=1
    )
    classifier = classifier_of(config, causal=False)
    assert not read_first_token_only(classifier)
    assert "forward" not in vars(layers_of(classifier.inner)[-1])


def test_a_loaded_encoder_and_its_replica_run_one_token(tiny_encoder) -> None:
    loaded = load_sequence_classifier(tiny_encoder, seed=0)
    for classifier in (loaded, replica(loaded, "cpu")):
        layer = layers_of(classifier.inner)[-1]
        tokens: list[int] = []
        layer.intermediate.register_forward_hook(
            lambda module, inputs, output, seen=tokens: seen.append(inputs[0].shape[1])
        )
        classifier.model(input_ids=torch.tensor([[2, 3, 4, 5]]))
        assert tokens == [1]


def test_a_replica_runs_its_own_weights(tiny_encoder) -> None:
    loaded = load_sequence_classifier(tiny_encoder, seed=0)
    for parameter in loaded.model.parameters():
        nn.init.normal_(parameter, std=0.1)
    copy = replica(loaded, "cpu")
    ids = torch.tensor([[2, 3, 4, 5]])
    before = copy.model(input_ids=ids).logits.detach()
    nn.init.normal_(layers_of(loaded.inner)[-1].attention.self.value.bias, std=5.0)
    assert torch.equal(copy.model(input_ids=ids).logits, before)
    assert not torch.allclose(loaded.model(input_ids=ids).logits, before, atol=1e-3)
