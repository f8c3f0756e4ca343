"""The Rule Adapter: which rules are critical for a trio, told from its texts alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.adapter.settings import AdapterSettings, check_rules, read_settings
from rmexp.adapter.text import trio_tokens
from rmexp.backbone.classifier import Classifier
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions, Precision
from rmexp.backbone.parallel import parallel_scores, row_budget
from rmexp.backbone.quiet import quiet_transformers
from rmexp.backbone.text import Tokens
from rmexp.errors import UserError
from rmexp.preferences import Pair
from rmexp.rating.rater import Embedder
from rmexp.rating.relevance import prompt_relevance
from rmexp.rules import RuleSet

_PAIRS_AT_ONCE = 1024
_TOKEN_BUDGET = 4096
_FROZEN = PeftOptions(kind="head_only")  # so that bf16 keeps the whole trunk in bfloat16


@dataclass
class RuleAdapter:
    """A backbone with one logit a rule.

    The logit of a rule is the network's output, plus what is known without reading the responses:
    ``offset_i + weight * relevance_i(prompt)``, fitted before the network is trained. So a network
    that has learned nothing chooses as well as frequency and relevance do together, and all that
    it learns is the discrepancy (ours; the method's section 7 has the network alone).

    Attributes:
        classifier: the network, with ``rules`` logits, and its tokenizer.
        settings: what it was trained for.
        rules: the rule set.
        embedder: gives the relevance of a rule to a prompt.
    """

    classifier: Classifier
    settings: AdapterSettings
    rules: RuleSet
    embedder: Embedder

    def logits(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Logits of each rule being critical: float32 ``[pairs, rules]``.

        Depends on the texts alone, and not on which response is A.

        Raises:
            UserError: a logit is NaN or infinite; names the pair.
        """
        result = np.empty((len(pairs), len(self.rules)), np.float32)
        with self.classifier.evaluating(), torch.inference_mode():
            for start in range(0, len(pairs), _PAIRS_AT_ONCE):
                some = pairs[start : start + _PAIRS_AT_ONCE]
                known = torch.from_numpy(self.known(some))
                found = self.run(self.tokens(some), known, _TOKEN_BUDGET)
                result[start : start + len(some)] = found.cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(result).all(axis=1))
        if len(bad):
            raise UserError(f"adapter: a logit of pair {pairs[bad[0]].id} is NaN or infinite")
        return result

    def known(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """What is added to the network's output: float32 ``[pairs, rules]``."""
        prompts = [pair.prompt for pair in pairs]
        relevance = prompt_relevance(prompts, self.rules.rules, self.embedder)
        offsets = np.asarray(self.settings.offsets, np.float32)
        return offsets + np.float32(self.settings.relevance_weight) * relevance

    def tokens(self, pairs: Sequence[Pair]) -> list[Tokens]:
        """The pairs as the network reads them."""
        return trio_tokens(
            pairs,
            self.classifier.tokenizer,
            causal=self.classifier.causal,
            max_length=self.settings.max_length,
        )

    def run(self, tokens: Sequence[Tokens], known: torch.Tensor, token_budget: int) -> torch.Tensor:
        """Logits of some trios, with gradients where they are on: float32 ``[pairs, rules]``."""
        device = self.classifier.device
        rows = self.classifier.rows(tokens, None, row_budget(tokens, token_budget, device.type))
        scores = parallel_scores(self.classifier, [r.to(device) for r in rows], len(tokens))
        return scores.reshape(known.shape) + known.to(device)

    def save(self, folder: Path) -> Path:
        """Write weights (safetensors), tokenizer and settings; the folder appears whole.

        Raises:
            UserError: the folder is taken by something else, or cannot be written.
        """
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists already: give a new folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error
        try:
            with quiet_transformers():
                self.classifier.model.save_pretrained(scratch)
                self.classifier.tokenizer.save_pretrained(scratch)
            self.settings.write(scratch)
            scratch.chmod(0o755)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder


def load_rule_adapter(
    folder: Path,
    rules: RuleSet,
    embedder: Embedder,
    *,
    precision: Precision = "32",
    device: str | None = None,
) -> RuleAdapter:
    """Load what :meth:`RuleAdapter.save` wrote.

    Args:
        folder: of the adapter.
        rules: the rule set in use.
        embedder: the sentence encoder that it was trained with.
        precision: 32, or bf16 for products in bfloat16.
        device: None takes a GPU where there is one.

    Raises:
        UserError: there is no adapter, its files do not belong together, or it was trained for
            another rule set or with another encoder.
    """
    settings = read_settings(folder)
    check_rules(settings, rules, folder)
    if settings.encoder.hexdigest != embedder.fingerprint.hexdigest:
        raise UserError(
            f"rater.encoder: the Rule Adapter in {folder} was trained with another sentence "
            "encoder; name that one, or train another adapter"
        )
    classifier = load_sequence_classifier(
        folder, precision=precision, seed=0, peft=_FROZEN, labels=len(rules), to_score=True
    )
    classifier.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return RuleAdapter(classifier, settings, rules, embedder)
