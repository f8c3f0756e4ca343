"""What is known of a saved Rule Adapter besides its weights; reads without loading a model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, differences
from rmexp.preferences import Pair, prompt_text
from rmexp.rules import RuleSet

SETTINGS_FILE = "rmexp_adapter.json"
_FORMAT = 1


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter was trained, and for what it may be used.

    Attributes:
        base: name or path of the model that training started from.
        max_length: most tokens of a trio.
        r: critical rules per pair in the targets.
        gamma: weight of relevance in the targets; ``inf`` is relevance alone.
        rules_name: name of the rule set.
        rule_ids: its rules, in the order of the logits.
        rules: fingerprint of the rule set.
        rater: fingerprint of the rater whose ratings made the targets, as text.
        frequency: float ``[rules]``, share of training pairs in which each rule was critical.
        offsets: float ``[rules]``, what is added to the network's logits.
        relevance_weight: by which a rule's embedding relevance to the prompt is added besides.
        encoder: fingerprint of the sentence encoder that gives this relevance.
        prompts: 16 digits for each distinct training prompt, sorted.
    """

    base: str
    max_length: int
    r: int
    gamma: float
    rules_name: str
    rule_ids: tuple[str, ...]
    rules: Fingerprint
    rater: str
    frequency: tuple[float, ...]
    offsets: tuple[float, ...]
    relevance_weight: float
    encoder: Fingerprint
    prompts: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write ``rmexp_adapter.json``."""
        plain = {
            "format": _FORMAT,
            **asdict(self),
            "gamma": "inf" if math.isinf(self.gamma) else self.gamma,
            "rules": self.rules.to_plain(),
            "encoder": self.encoder.to_plain(),
        }
        (folder / SETTINGS_FILE).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    def unseen(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs whose prompt was not trained on."""
        seen = set(self.prompts)
        return [pair for pair in pairs if prompt_digest(pair) not in seen]


def prompt_digest(pair: Pair) -> str:
    """16 hexadecimal digits over the prompt's text."""
    text = prompt_text(pair.prompt).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def read_settings(folder: Path) -> AdapterSettings:
    """Read what :meth:`AdapterSettings.write` wrote.

    Raises:
        UserError: the folder holds no Rule Adapter, or one of another format.
    """
    path = folder / SETTINGS_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.pop("format") != _FORMAT:
            raise UserError(f"{path}: of another format; train the adapter again")
        return AdapterSettings(
            **{
                **plain,
                "gamma": float(plain["gamma"]),
                "rule_ids": tuple(plain["rule_ids"]),
                "rules": Fingerprint.from_plain(plain["rules"]),
                "frequency": tuple(plain["frequency"]),
                "offsets": tuple(plain["offsets"]),
                "encoder": Fingerprint.from_plain(plain["encoder"]),
                "prompts": tuple(plain["prompts"]),
            }
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder}: no Rule Adapter here ({SETTINGS_FILE} is missing): "
            "give the folder that 'rmexp adapter train' wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def check_rules(settings: AdapterSettings, rules: RuleSet, folder: Path) -> None:
    """Refuse another rule set than the adapter's.

    Raises:
        UserError: naming both sets, and the first rules that differ.
    """
    if settings.rules.hexdigest == rules.fingerprint.hexdigest:
        return
    parts = differences(settings.rules, rules.fingerprint)
    moved = list(dict.fromkeys(part.partition(":")[2] for part in parts))
    shown = ", ".join(moved[:3]) + (", ..." if len(moved) > 3 else "")
    raise UserError(
        f"{folder}: this Rule Adapter was trained for rule set '{settings.rules_name}' "
        f"({len(settings.rule_ids)} rules), not for '{rules.name}' ({len(rules)} rules) as it is "
        f"now (differs: {shown}); use its rule set, or train another adapter"
    )
