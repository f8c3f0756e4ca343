"""The probe: a rule taught from labelled examples, as a logistic head on frozen embeddings.

A response's features are the embedding of its whole text and the largest and smallest value of each
dimension over the embeddings of its sentences: ``[3 * dim]``. A rule often hangs on one sentence,
which a mean over the text hides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.rating.check import auc, probability_error
from rmexp.rating.rater import Embedder, Item, RatedBatch, only_wanted
from rmexp.rating.wording import sentences
from rmexp.rules import Rule

WEIGHTS, ABOUT = "probe.safetensors", "probe.json"
_VERSION = 1
_FOLDS = 5
_PENALTIES = (1.0, 10.0, 100.0)  # scikit-learn's C


@dataclass(frozen=True)
class ProbeHead:
    """What is known of one rule's head.

    Attributes:
        rule_id: the rule.
        sentence: the rule's sentence, by which a rule finds its head.
        positives: examples that follow the rule.
        negatives: examples that break it.
        penalty: scikit-learn's C, chosen by cross-validation.
        auc: cross-validated.
        calibration_error: of the probabilities, cross-validated but for two numbers a head
            (slope and offset) that are fitted on the same held-out scores.
    """

    rule_id: str
    sentence: str
    positives: int
    negatives: int
    penalty: float
    auc: float
    calibration_error: float


@dataclass(frozen=True)
class Probe:
    """Fitted heads: ``P(follows) = sigmoid(features @ weights.T + bias)``.

    Attributes:
        heads: one per rule.
        weights: float32 ``[rules, features]``.
        bias: float32 ``[rules]``.
        embedder: identity of what the features were made with.
    """

    heads: tuple[ProbeHead, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    embedder: Fingerprint

    def save(self, folder: Path) -> None:
        """Write ``probe.safetensors`` and ``probe.json``.

        Raises:
            UserError: the folder cannot be written.
        """
        from safetensors.numpy import save

        about = {
            "version": _VERSION,
            "embedder": self.embedder.to_plain(),
            "heads": [asdict(head) for head in self.heads],
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {"weights": np.ascontiguousarray(self.weights), "bias": self.bias}
            _replace(folder / WEIGHTS, save(tensors))
            _replace(folder / ABOUT, json.dumps(about, indent=2).encode())
        except OSError as error:
            raise UserError(f"{folder}: cannot write the probe: {error.strerror}") from error


def load_probe(folder: Path) -> Probe:
    """Read what :meth:`Probe.save` wrote.

    Raises:
        UserError: the folder holds no probe, or one of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        if about["version"] != _VERSION:
            raise UserError(f"{folder / ABOUT}: version {about['version']}: fit the probe again")
        heads = tuple(ProbeHead(**head) for head in about["heads"])
        probe = Probe(
            heads, tensors["weights"], tensors["bias"], Fingerprint.from_plain(about["embedder"])
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no probe here ({Path(error.filename).name} is missing): "
            "give the folder that 'rmexp rater fit' wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the probe cannot be read: {error}") from error
    if len(heads) != len(probe.weights) or len(heads) != len(probe.bias):
        raise UserError(f"{folder}: {ABOUT} and {WEIGHTS} do not belong together")
    return probe


def fit_probe(
    items: Sequence[Item],
    rules: Sequence[Rule],
    labels: NDArray[np.floating],
    embedder: Embedder,
) -> Probe:
    """Fit one head per rule.

    Each head's penalty has the best of three cross-validated AUCs; its slope and offset are then
    scaled so that the held-out scores are probabilities (Platt scaling).

    Args:
        items: labelled responses.
        rules: the rules.
        labels: ``[items, rules]``, 1 follows, 0 breaks, NaN unknown.
        embedder: frozen.

    Raises:
        UserError: scikit-learn is missing, or a rule has fewer than 5 examples of a kind.
    """
    known = ~np.isnan(labels)
    for column, rule in enumerate(rules):
        for name, value in (("follow", 1), ("break", 0)):
            count = int((labels[known[:, column], column] == value).sum())
            if count < _FOLDS:
                raise UserError(
                    f"rule '{rule.id}': {count} labelled responses {name} it, a probe needs "
                    f"{_FOLDS} or more of each kind"
                )
    features = probe_features([item.response for item in items], embedder)
    fitted = [
        _fit_head(rule, features[known[:, j]], labels[known[:, j], j] == 1)
        for j, rule in enumerate(rules)
    ]
    heads, weights, bias = zip(*fitted, strict=True)
    return Probe(
        heads,
        np.stack(weights).astype(np.float32),
        np.array(bias, np.float32),
        embedder.fingerprint,
    )


def probe_features(texts: Sequence[str], embedder: Embedder) -> NDArray[np.float32]:
    """Features of texts: float32 ``[texts, 3 * dim]``."""
    split = [sentences(text) for text in texts]
    starts = np.cumsum([0, *(len(parts) for parts in split)])[:-1]
    vectors = embedder.embed([part for parts in split for part in parts])
    parts = [
        embedder.embed(texts),
        np.maximum.reduceat(vectors, starts, axis=0),
        np.minimum.reduceat(vectors, starts, axis=0),
    ]
    return np.concatenate(parts, axis=1)


class ProbeRater:
    """Rates by fitted heads; ``psi = 2 P(follows) - 1``.

    Args:
        probe: from :func:`fit_probe` or :func:`load_probe`.
        embedder: the one it was fitted with.

    Raises:
        UserError: another embedder.
    """

    def __init__(self, probe: Probe, embedder: Embedder):
        if embedder.fingerprint.hexdigest != probe.embedder.hexdigest:
            raise UserError(
                "rater.encoder: the probe was fitted on another sentence encoder; fit it again, "
                "or name the encoder it was fitted on"
            )
        self.embedder = embedder
        self._probe = probe
        self._heads = {head.sentence: i for i, head in enumerate(probe.heads)}
        self.fingerprint: Fingerprint = fingerprint(
            "probe",
            version=_VERSION,
            embedder=embedder.fingerprint,
            sentences=[head.sentence for head in probe.heads],
            weights=probe.weights,
            bias=probe.bias,
        )

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Rate items by rules; see :class:`rmexp.rating.rater.Rater`.

        Raises:
            UserError: a rule has no head.
        """
        heads = [self._head_of(rule) for rule in rules]
        if not items or not rules:
            return RatedBatch(np.zeros((len(items), len(rules)), np.float32))
        features = probe_features([item.response for item in items], self.embedder)
        logits = features @ self._probe.weights[heads].T + self._probe.bias[heads]
        return RatedBatch(only_wanted(np.tanh(logits / 2).astype(np.float32), wanted))

    def _head_of(self, rule: Rule) -> int:
        if rule.sentence not in self._heads:
            known = ", ".join(head.rule_id for head in self._probe.heads)
            raise UserError(
                f"rule '{rule.id}': the probe has no head with this sentence; it knows {known} "
                "(keep these with rules.ids, or fit a head)"
            )
        return self._heads[rule.sentence]


def _fit_head(
    rule: Rule, features: NDArray[np.float32], follows: NDArray[np.bool_]
) -> tuple[ProbeHead, NDArray[np.float64], float]:
    linear = _scikit_learn()
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    best = (-1.0, _PENALTIES[0], np.zeros(len(follows)))
    for penalty in _PENALTIES:
        model = linear.LogisticRegression(C=penalty, max_iter=1000)
        scores = cross_val_predict(model, features, follows, cv=folds, method="decision_function")
        area = auc(scores, follows)
        if area > best[0]:
            best = (area, penalty, scores)
    area, penalty, scores = best
    scaling = linear.LogisticRegression(C=1.0).fit(scores[:, None], follows)
    # A head that is worse than chance held out must not be turned round by its scaling.
    slope, offset = max(float(scaling.coef_[0, 0]), 0.0), float(scaling.intercept_[0])
    model = linear.LogisticRegression(C=penalty, max_iter=1000).fit(features, follows)
    head = ProbeHead(
        rule.id,
        rule.sentence,
        positives=int(follows.sum()),
        negatives=int((~follows).sum()),
        penalty=penalty,
        auc=round(area, 4),
        calibration_error=round(
            probability_error(1 / (1 + np.exp(-(slope * scores + offset))), follows), 4
        ),
    )
    return head, slope * model.coef_[0], slope * float(model.intercept_[0]) + offset


def _scikit_learn() -> Any:
    try:
        from sklearn import linear_model
    except ImportError as error:
        raise UserError("fitting a probe needs scikit-learn: pip install scikit-learn") from error
    return linear_model


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    os.replace(scratch, path)
