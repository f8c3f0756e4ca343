"""Frozen weights in four bits under LoRA's adapters (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from rmexp.errors import UserError


def check_qlora() -> None:
    """Refuse by name what is missing for ``peft.kind=qlora``.

    Raises:
        UserError: bitsandbytes is not installed, or there is no CUDA GPU.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("peft.kind=qlora needs bitsandbytes: pip install 'rmexp[qlora]'")
    import torch

    if not torch.cuda.is_available():
        raise UserError("peft.kind=qlora needs a CUDA GPU, and torch sees none; use peft=lora")


def qlora_arguments(head: str) -> dict[str, Any]:
    """``from_pretrained`` arguments: NF4 with double quantisation, products in bfloat16.

    Args:
        head: name of the score head, which stays whole.
    """
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=[head],
        ),
        # Each rank on a GPU of its own.
        "device_map": {"": int(os.environ.get("LOCAL_RANK", 0))},
    }
