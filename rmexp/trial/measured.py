"""What a trial is measured on: validation pairs, suites, the model before training, guards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.backbone.sources import resolve_model, weights_fingerprint
from rmexp.evaluation.contamination import contamination
from rmexp.evaluation.distribution import score_drift
from rmexp.evaluation.objective import constraint_violation, names_in
from rmexp.evaluation.preferences import PreferenceEvaluation
from rmexp.evaluation.scorer import Scorer
from rmexp.evaluation.sets import EvaluationSet, SetResult, evaluate_set
from rmexp.fingerprint import fingerprint
from rmexp.preferences import Pair, prompt_text
from rmexp.reward.model import load_base_model
from rmexp.trial.reading import known_metrics
from rmexp.trial.record import write_json
from rmexp.trial.schema import EvaluationConfig, TrialConfig
from rmexp.trial.versions import code_fingerprint

BASE = "base."


@dataclass(frozen=True)
class BaseResult:
    """The model before training, on every set of a trial.

    Attributes:
        metrics: by the names that objectives use, without ``base.``.
        scores: set to the scores of all its texts.
    """

    metrics: dict[str, float]
    scores: dict[str, list[float]]


def wants_base(config: EvaluationConfig) -> bool:
    """Whether the objective or a guard looks at the model before training."""
    expressions = [*config.objectives, *config.guards]
    return any(name.startswith(BASE) for e in expressions for name in names_in(e))


def base_result(config: TrialConfig, sets: Mapping[str, EvaluationSet]) -> BaseResult:
    """Score the model before training, or find what was scored before.

    The result depends on weights, text form, seed (of a head that the weights lack), sets and
    code, and is kept under their fingerprint in ``cache_dir/base``.
    """
    model = config.model
    cache = Path(config.cache_dir)
    key = fingerprint(
        "base",
        weights=weights_fingerprint(resolve_model(model.name, cache)),
        template=model.template,
        max_length=model.max_length,
        precision=config.trainer.precision,
        seed=config.seed,
        sets={name: of.fingerprint.hexdigest for name, of in sets.items()},
        code=code_fingerprint(),
    )
    path = cache / "base" / f"{key.hexdigest}.json"
    if path.is_file():
        plain = json.loads(path.read_text(encoding="utf-8"))
        return BaseResult(plain["metrics"], plain["scores"])
    scorer = load_base_model(
        model.name,
        seed=config.seed,
        template=model.template,
        max_length=model.max_length,
        cache_dir=cache,
        precision=config.trainer.precision,
    )
    results = {name: evaluate_set(scorer, of) for name, of in sets.items()}
    found = BaseResult(
        known_metrics(results), {name: r.scores.tolist() for name, r in results.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"metrics": found.metrics, "scores": found.scores})
    return found


def measure(scorer: Scorer, sets: Mapping[str, EvaluationSet]) -> dict[str, SetResult]:
    """Every set's result."""
    return {name: evaluate_set(scorer, of) for name, of in sets.items()}


def wrongly_ranked(result: SetResult, most: int = 20) -> tuple[list[str], list[list[Any]]]:
    """Column names and rows of the pairs that a model ranks against people, the clearest first.

    Args:
        result: of judged pairs.
        most: rows.
    """
    detail = result.detail
    assert isinstance(detail, PreferenceEvaluation)
    gap = np.asarray(detail.chosen_scores) - np.asarray(detail.rejected_scores)
    worst = [int(i) for i in np.argsort(gap, kind="stable")[:most] if gap[i] < 0]
    rows = []
    for i in worst:
        pair = result.of.rows[i]
        scores = [float(detail.chosen_scores[i]), float(detail.rejected_scores[i])]
        rows.append(
            [pair.id, prompt_text(pair.prompt), pair.chosen, pair.rejected, *scores, float(gap[i])]
        )
    columns = ["pair", "prompt", "preferred by people", "other response"]
    return [*columns, "its score", "other score", "gap"], rows


def drift_from(base: BaseResult, results: Mapping[str, SetResult]) -> dict[str, dict[str, float]]:
    """How scores have moved from the model before training, by set."""
    return {
        name: score_drift(np.array(base.scores[name]), result.scores).metrics()
        for name, result in results.items()
    }


def guard_violations(guards: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """By how much each guard is violated, under ``guards/EXPRESSION``; 0 or less holds."""
    return {f"guards/{guard}": constraint_violation(guard, known) for guard in guards}


def contamination_report(
    training: Sequence[Pair], sets: Mapping[str, EvaluationSet]
) -> dict[str, Any]:
    """Overlap of the training prompts with every evaluation set, by set."""
    prompts = [pair.prompt for pair in training]
    sources = [pair.id for pair in training]
    return {
        name: contamination(prompts, of.prompts).to_plain(of.ids, sources)
        for name, of in sets.items()
    }
