"""rmexp: sweep and train rule-adaptive safety reward models.

The public names load on first use, so that ``import rmexp`` and the command line stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmexp.reward.model import RewardModel, load_reward_model
    from rmexp.trial.run import run_trial

_PUBLIC = {
    "RewardModel": "rmexp.reward.model",
    "load_reward_model": "rmexp.reward.model",
    "run_trial": "rmexp.trial.run",
}
__all__ = ["RewardModel", "__version__", "load_reward_model", "run_trial"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rmexp' has no attribute {name!r}")
