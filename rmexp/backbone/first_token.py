"""An encoder's last layer, run for the one token that is read.

BERT and its like are read at their first token: of the last layer, the other tokens' queries,
products and feed-forward network are never looked at. Only their keys and values are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rmexp.backbone.attention import NAME as SHORT_ROWS
from rmexp.backbone.classifier import Classifier, layers_of

# Other kernels are given masks of other shapes.
_KERNELS = ("eager", "sdpa", SHORT_ROWS)


def read_first_token_only(classifier: Classifier) -> bool:
    """Let the last layer run for the first token alone; whether this model gives equal scores so.

    Only for encoders built like BERT; what their pooling reads is found out by trying.
    """
    model = classifier.inner
    if classifier.causal or model.config._attn_implementation not in _KERNELS:
        return False
    layer = layers_of(model)[-1]
    try:
        short = _first_token_forward(layer)
    except AttributeError:
        return False
    expected = _trial_scores(classifier)
    layer.forward = short
    if torch.allclose(
        _trial_scores(classifier), expected, atol=0.05 if classifier.autocast else 1e-5
    ):
        return True
    del layer.forward
    return False


def _first_token_forward(layer: Any) -> Callable[..., torch.Tensor]:
    """BertLayer.forward for the first token's query.

    Raises:
        AttributeError: the layer is built otherwise.
    """
    attention, feed_forward = layer.attention, layer.feed_forward_chunk
    inner, join = attention.self, attention.output
    width, scale = inner.attention_head_size, inner.scaling
    query, key, value = inner.query, inner.key, inner.value

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, width)).transpose(1, 2)

    def forward(
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        first = hidden_states[:, :1]
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        seen = torch.nn.functional.scaled_dot_product_attention(
            heads(query(first)),
            heads(key(hidden_states)),
            heads(value(hidden_states)),
            attn_mask=mask,
            scale=scale,
        )
        found: torch.Tensor = feed_forward(join(seen.transpose(1, 2).flatten(2), first))
        return found

    return forward


def _trial_scores(classifier: Classifier) -> torch.Tensor:
    """Logits of two texts, one of them padded."""
    model = classifier.model
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.config.vocab_size, (2, 7), generator=generator)
    ids = ids.to(classifier.device)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with classifier.tried():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits.float()
    return logits
