"""The trained reward model: score, save, load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.backbone.classifier import Classifier
from rmexp.backbone.frozen import FrozenStates
from rmexp.backbone.load import (
    adapter_folder,
    is_classifier,
    load_adapter,
    load_sequence_classifier,
    replica,
)
from rmexp.backbone.options import PeftOptions, Precision
from rmexp.backbone.parallel import (
    parallel_scores,
    row_budget,
    scores_on_devices,
    scoring_devices,
)
from rmexp.backbone.quiet import quiet_transformers
from rmexp.backbone.sources import hub_name, resolve_model
from rmexp.backbone.text import TemplateName, TextTemplate, Tokens
from rmexp.backbone.tokens import TokenStore, text_key
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.preferences.pair import Prompt, prompt_from_text
from rmexp.reward.losses import NonFiniteError

SETTINGS_FILE = "rmexp_reward.json"
CARD = "README.md"
HOW_IT_WAS_MADE = "## How it was made"
_NOTHING = PeftOptions(kind="head_only")  # so that bf16 keeps the whole trunk in bfloat16


@dataclass
class RewardModel:
    """A reward model ready to score.

    Attributes:
        classifier: the network and its tokenizer.
        template: how texts become tokens.
        base: name or path of the model that rmexp trained it from; empty where rmexp did not.
        token_budget: tokens in one forward pass.
        progress: called with (texts scored, texts to score) while :meth:`score` runs.
        replicas: the same network on further devices, which score beside the first.
        frozen: what its frozen layers give, where that is kept; see :meth:`keep_frozen_states`.
        how_scored: how :meth:`score` last ran: ``template``, ``max_length``, ``precision``, and of
            the distinct ``texts`` how many truncation cut (``texts_cut``), and how many of those
            in the response (``responses_cut``).
        store: where tokens are found again, as within a trial; None to tokenise at each call.
    """

    classifier: Classifier
    template: TextTemplate
    base: str = ""
    token_budget: int = 4096
    progress: Callable[[int, int], None] | None = None
    replicas: list[Classifier] = field(default_factory=list)
    frozen: FrozenStates | None = None
    how_scored: dict[str, Any] = field(default_factory=dict)
    store: TokenStore | None = None

    def spread(self, devices: Sequence[str]) -> RewardModel:
        """Move to the first device and copy to the others."""
        self.classifier.model.to(devices[0]).eval()
        self.replicas = [replica(self.classifier, device) for device in devices[1:]]
        return self

    def keep_frozen_states(
        self, peft: PeftOptions, weights: Fingerprint, cache_dir: Path, max_bytes: int
    ) -> None:
        """Score from what the frozen layers gave before, as training does.

        Nothing happens where the model has none. States are found again where the frozen weights
        are the same values: those of training, unless saving has rounded them. The first text
        scored is run whole as well, and unequal scores end the use.

        Args:
            peft: how the model was trained.
            weights: identity of the weights that training began from.
            cache_dir: as training used it.
            max_bytes: room on disk, 0 to keep nothing.
        """
        if peft.adapts or peft.kind == "full" or not max_bytes:
            return
        self.classifier.peft = peft
        if self.classifier.frozen_layers:
            self.frozen = FrozenStates(self.classifier, weights, cache_dir, max_bytes)

    def score(
        self, prompts: Sequence[Prompt | str], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Rewards of responses to prompts: float64 ``[n]``.

        A text's score does not depend on the texts beside it (beyond float32 rounding, 1e-5), and
        identical texts are run once.

        Raises:
            ValueError: prompts and responses differ in number.
            NonFiniteError: a score is NaN or infinite; names the rows.
        """
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts for {len(responses)} responses")
        if not len(prompts):
            return np.zeros(0)
        asked = [prompt_from_text(p) if isinstance(p, str) else p for p in prompts]
        keys = [text_key(p, r) for p, r in zip(asked, responses, strict=True)]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first.values())
        encode = self.template.encode if self.store is None else self.store.tokens
        tokens = encode([asked[i] for i in distinct], [responses[i] for i in distinct])
        self.how_scored = self._run_on(tokens)
        device = self.classifier.device
        families: dict[Prompt, list[int]] = {}
        for place, i in enumerate(distinct):
            families.setdefault(asked[i], []).append(place)
        with self.classifier.evaluating(), torch.inference_mode():
            budget = row_budget(tokens, self.token_budget, device.type)
            states = self.frozen.states(tokens) if self.frozen and not self.replicas else None
            rows = self.classifier.rows(
                tokens, list(families.values()), budget, states, share_beginning=states is None
            )

            def tell(done: int) -> None:
                if self.progress is not None:
                    self.progress(done, len(tokens))

            if self.replicas:
                everywhere = [self.classifier, *self.replicas]
                scores = scores_on_devices(everywhere, rows, len(tokens), tell)
            else:
                rows = [r.to(device) for r in rows]
                scores = parallel_scores(self.classifier, rows, len(tokens), tell)
        by_key = dict(zip((keys[i] for i in distinct), scores.double().cpu().numpy(), strict=True))
        result = np.array([by_key[key] for key in keys], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(result))
        if len(bad):
            shown = ", ".join(str(i) for i in bad[:5])
            raise NonFiniteError(f"the score is NaN or infinite at rows {shown}", bad.tolist())
        return result

    def _run_on(self, tokens: Sequence[Tokens]) -> dict[str, Any]:
        return {
            "template": self.template.name,
            "max_length": self.template.max_length,
            "precision": "bf16" if self.classifier.autocast else "32",
            "texts": len(tokens),
            "texts_cut": sum(bool(t.cut_prompt or t.cut_response) for t in tokens),
            "responses_cut": sum(bool(t.cut_response) for t in tokens),
        }

    def save(self, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> Path:
        """Write weights (safetensors), tokenizer, settings and a model card.

        Plain transformers (or peft, for an adapter) loads the folder with equal scores.

        Args:
            folder: made where it is missing.
            weights: what to write in place of the model's own weights, such as those gathered
                from a sharded model.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        with quiet_transformers():
            options = {} if weights is None else {"state_dict": dict(weights)}
            self.classifier.model.save_pretrained(folder, **options)
            self.classifier.tokenizer.save_pretrained(folder)
        (folder / SETTINGS_FILE).write_text(json.dumps(self._settings(), indent=2) + "\n")
        (folder / CARD).write_text(self._card(), encoding="utf-8")
        return folder

    def _settings(self) -> dict[str, Any]:
        peft = self.classifier.peft
        return {
            "format": 1,
            "base": self.base,
            "template": self.template.name,
            "max_length": self.template.max_length,
            "adapter": peft.adapts,
        }

    def _card(self) -> str:
        adapter = self.classifier.peft.adapts
        auto = (
            "AutoPeftModelForSequenceClassification"
            if adapter
            else ("AutoModelForSequenceClassification")
        )
        return _CARD.format(
            library="peft" if adapter else "transformers",
            made=_TRAINED.format(base=hub_name(self.base)) if self.base else _FOREIGN,
            template=self.template.name,
            max_length=self.template.max_length,
            auto=auto,
            pad=self.classifier.tokenizer.pad_token,
        )


_TRAINED = "Trained with rmexp from `{base}`\nby the Bradley-Terry loss on labelled pairs."
_FOREIGN = "Written by rmexp,\nwhich did not train it."
_CARD = """---
library_name: {library}
pipeline_tag: text-classification
tags:
- reward-model
- rmexp
---
# Reward model

One number for a prompt and a response; higher is better. {made}

- Text form: `{template}`, at most {max_length} tokens (the prompt is cut from its left).
- Padding: on the right, with `{pad}`.

```python
import rmexp

model = rmexp.load_reward_model("this folder")
model.score(["How do I boil an egg?"], ["Ten minutes in boiling water."])
```

The weights also load with `{auto}.from_pretrained(folder, num_labels=1)`; the texts must then be
put into the form above.
"""


def load_reward_model(
    path: Path | str,
    *,
    template: TemplateName | None = None,
    max_length: int | None = None,
    precision: Precision = "32",
    device: str = "cpu",
    cache_dir: Path | None = None,
) -> RewardModel:
    """Load a reward model to score with.

    Args:
        path: a folder that :meth:`RewardModel.save` wrote, or any local or hub sequence
            classifier with one label; each whole or an adapter.
        template: how texts become tokens; what was stored, else ``auto``.
        max_length: most tokens; what was stored, else 2048 or the model's own limit.
        precision: 32, or bf16 for products in bfloat16 (the head stays in float32).
        device: where to run; ``cuda`` is all GPUs, ``auto`` those or else the CPU.
        cache_dir: where named models are converted to, for adapters on them.

    Raises:
        UserError: nothing can be loaded from there, its head is not of one number, or it has
            fewer positions than ``max_length``.
    """
    settings = _settings_of(path)
    cache = cache_dir or Path.home() / ".cache" / "rmexp"
    devices = scoring_devices(device)
    found = resolve_model(path, cache)
    adapter = adapter_folder(found)
    if adapter is not None:
        settings = settings or _settings_of(adapter)
        classifier = _load_adapter(adapter, settings.get("base"), precision, cache)
    else:
        _refuse_bare_trunk(found)
        classifier = load_sequence_classifier(
            found, precision=precision, seed=0, peft=_NOTHING, to_score=True
        )
    limit = classifier.longest
    if max_length is not None and limit is not None and max_length > limit:
        raise UserError(f"max_length={max_length}: this model has positions for {limit} tokens")
    return RewardModel(
        classifier,
        TextTemplate(
            classifier.tokenizer,
            name=template or settings.get("template", "auto"),
            max_length=max_length or settings.get("max_length") or min(2048, limit or 2048),
            causal=classifier.causal,
        ),
        base=settings.get("base", ""),
    ).spread(devices)


def load_base_model(
    name: Path | str,
    *,
    seed: int,
    template: TemplateName,
    max_length: int,
    cache_dir: Path,
    precision: Precision = "32",
    device: str = "cpu",
) -> RewardModel:
    """The model that training begins from: its own head, or the one drawn from the seed.

    Args:
        name: as training takes it.
        seed: of the trial.
        template: how texts become tokens.
        max_length: most tokens.
        cache_dir: where named models are converted to, and tokens found again.
        precision: 32 or bf16.
        device: where to run.

    Raises:
        UserError: as training raises it.
    """
    classifier = load_sequence_classifier(
        resolve_model(name, cache_dir), precision=precision, seed=seed, peft=_NOTHING
    )
    form = TextTemplate(
        classifier.tokenizer, name=template, max_length=max_length, causal=classifier.causal
    )
    made = RewardModel(classifier, form, base=str(name), store=TokenStore(form, cache_dir))
    return made.spread(scoring_devices(device))


def _refuse_bare_trunk(path: Path | str) -> None:
    """A model without a head would score at random (trl #578)."""
    if not is_classifier(path):
        raise UserError(f"{path} is no reward model: its architecture has no score head")


def _settings_of(folder: Path | str) -> dict[str, Any]:
    file = Path(folder) / SETTINGS_FILE
    return json.loads(file.read_text()) if file.is_file() else {}


def _load_adapter(path: Path, base: str | None, precision: Precision, cache: Path) -> Classifier:
    from peft import PeftConfig

    named = PeftConfig.from_pretrained(str(path)).base_model_name_or_path or base
    if named is None:
        raise UserError(f"{path}/adapter_config.json names no base model")
    # The stored path may be another machine's: the name that it was found by still holds.
    where = named if Path(named).is_dir() or not base else resolve_model(base, cache)
    return load_adapter(path, where, precision=precision)
