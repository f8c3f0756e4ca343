"""Options that trade time for memory, or a longer start for faster steps; the scores stay."""

from __future__ import annotations

import os
import shutil

from rmexp.backbone.classifier import Classifier, layers_of
from rmexp.errors import UserError


def checkpoint_layers(classifier: Classifier) -> None:
    """Keep only each layer's input for the backward pass, and run the layer again there.

    Raises:
        UserError: the architecture does not support it.
    """
    try:
        classifier.inner.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={
                "use_reentrant": False,
                # Without dropout a layer draws nothing: no random state to set back.
                "preserve_rng_state": classifier.peft.drops,
            }
        )
    except ValueError as error:
        raise UserError(f"trainer.gradient_checkpointing: {error}") from error


def pack_rows(classifier: Classifier) -> None:
    """Run pairs packed into long rows, attended to by FlexAttention.

    Raises:
        UserError: the model's scores would be other ones so.
    """
    if not classifier.packs_exactly:
        raise UserError(
            "trainer.attention=flex: this model cannot run packed rows (an encoder, or layers of a "
            "kind of their own); use trainer.attention=sdpa"
        )
    classifier.packs = True


def compile_layers(classifier: Classifier) -> None:
    """Compile each layer, for rows of any length; names of weights stay as they are.

    Raises:
        UserError: there is no C++ compiler, which PyTorch needs for it.
    """
    if not any(shutil.which(c) for c in (os.environ.get("CXX", "g++"), "clang++")):
        raise UserError("trainer.compile=true needs a C++ compiler: install g++ or clang++")
    for layer in layers_of(classifier.inner):
        layer.compile(dynamic=True)
    classifier.compiled = True
