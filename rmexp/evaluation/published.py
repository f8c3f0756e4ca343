"""Published RewardBench figures, as rows to compare with: read, not measured here.

From "RuleAdapter: Dynamic Rules for training Safety Reward Models in RLHF" (ICML 2025), in
percent there. Base is what RAMO was trained from, Skywork-Reward-Llama-3.1-8B-v0.2.
"""

from __future__ import annotations

_ONE = ("Chat", "Chat Hard", "Safety", "Reasoning")
_TWO = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")

PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "rewardbench": {
        name: dict(zip(_ONE, (v / 100 for v in values), strict=True))
        for name, values in {
            "RAMO-Llama3.1-8B": (92.2, 89.0, 95.1, 93.5),
            "Skywork-Reward-Llama-3.1-8B-v0.2": (94.7, 88.4, 92.7, 96.7),
            "Llama-3.1-Nemotron-70B-Reward": (97.5, 85.7, 95.1, 98.1),
        }.items()
    },
    "rewardbench2": {
        name: dict(zip(_TWO, (v / 100 for v in values), strict=True))
        for name, values in {
            "RAMO-Llama3.1-8B": (65.5, 37.5, 56.3, 97.6, 90.7, 67.5),
            "Skywork-Reward-Llama-3.1-8B-v0.2": (69.7, 40.6, 60.1, 94.2, 94.1, 71.7),
        }.items()
    },
}
