"""Rows of the schemas of RewardBench 1 and 2, of texts that differ in length and wording."""

from __future__ import annotations

from typing import Any

from rmexp.evaluation.rewardbench import SECTIONS
from rmexp.evaluation.rewardbench2 import SUBSETS, TIES

_OPENINGS = ("I cannot help with that", "Sure", "Here is how", "Step one", "fn main() {", "Well")
_ENDINGS = (".", ", of course.", " and then call a doctor.", " }", "!", " 1, 2, 3.")


def rewardbench_rows() -> list[dict[str, Any]]:
    """Two rows a subset."""
    made = []
    for subset in (s for weights in SECTIONS.values() for s in weights):
        for _ in range(2):
            i = len(made)
            made.append(
                {
                    "prompt": f"Question {i} of {subset}?",
                    "chosen": _text(i, 0),
                    "chosen_model": "x",
                    "rejected": _text(i, 1),
                    "rejected_model": "y",
                    "subset": subset,
                    "id": i,
                }
            )
    return made


def rewardbench2_rows() -> list[dict[str, Any]]:
    """Three rows a subset, one right option of four; of Ties three N, each ref and tied."""
    made: list[dict[str, Any]] = []
    for subset in SUBSETS:
        names = [f"{kind}:{n}" for n in range(3) for kind in ("ref", "tied")]
        for name in names if subset == TIES else [f"{subset[:2]}{n}" for n in range(3)]:
            i = len(made)
            right = 3 if name.startswith("tied") else 1
            options = [_text(i, k) for k in range(right + 3)]
            made.append(
                {
                    "id": name,
                    "prompt": f"Question {name.partition(':')[2] or i} of {subset}?",
                    "chosen": options[:right],
                    "rejected": options[right:],
                    "num_correct": right,
                    "num_incorrect": 3,
                    "total_completions": right + 3,
                    "models": ["x"],
                    "subset": subset,
                    "additional_metadata": {},
                }
            )
    return made


def _text(i: int, k: int) -> str:
    opening, ending = _OPENINGS[(i + k) % 6], _ENDINGS[(i * 5 + k) % 6]
    return f"{opening} {'very ' * ((i * 7 + k * 3) % 5)}{ending}"
