"""What a trial is measured on: validation pairs, suites, the model before training, guards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.backbone.sources import resolve_model, weights_fingerprint
from rmexp.errors import UserError
from rmexp.evaluation.contamination import contamination
from rmexp.evaluation.distribution import SCORE_DRIFT, score_drift
from rmexp.evaluation.objective import constraint_violation, names_in
from rmexp.evaluation.preferences import PreferenceEvaluation
from rmexp.evaluation.scorer import Scorer
from rmexp.evaluation.sets import EvaluationSet, SetResult, evaluate_set
from rmexp.fingerprint import fingerprint
from rmexp.preferences import Pair, pairs_fingerprint, prompt_text
from rmexp.reward.model import load_base_model
from rmexp.trial import reading
from rmexp.trial.evaluation_schema import EvaluationConfig
from rmexp.trial.reading import known_metrics
from rmexp.trial.record import FILE_NAME, MODEL, TrialRecord, write_json
from rmexp.trial.schema import TrialConfig
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


def scoring_device(config: TrialConfig) -> str:
    """Where a trial scores: all the GPUs that it sees where it trains on one."""
    return {"gpu": "cuda"}.get(config.trainer.accelerator, config.trainer.accelerator)


def base_result(config: TrialConfig, sets: Mapping[str, EvaluationSet]) -> BaseResult:
    """Score the model before training, or find what was scored before.

    In float32, as the trained model is scored in the end. The result depends on weights, text
    form, seed (of a head that the weights lack), sets and code, and is kept under their
    fingerprint in ``cache_dir/base``.
    """
    model = config.model
    cache = Path(config.cache_dir)
    path = resolve_model(model.name, cache)
    key = fingerprint(
        "base",
        weights=weights_fingerprint(path, commit=True, cache_dir=cache),
        template=model.template,
        max_length=model.max_length,
        seed=config.seed,
        sets={name: of.fingerprint.hexdigest for name, of in sets.items()},
        code=code_fingerprint(),
    )
    kept = cache / "base" / f"{key.hexdigest}.json"
    if kept.is_file():
        plain = json.loads(kept.read_text(encoding="utf-8"))
        return BaseResult(plain["metrics"], plain["scores"])
    scorer = load_base_model(
        model.name,
        seed=config.seed,
        template=model.template,
        max_length=model.max_length,
        cache_dir=cache,
        device=scoring_device(config),
    )
    results = {name: evaluate_set(scorer, of) for name, of in sets.items()}
    found = BaseResult(
        known_metrics(results), {name: r.scores.tolist() for name, r in results.items()}
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {"metrics": found.metrics, "scores": found.scores})
    return found


@dataclass
class InTraining:
    """The model between epochs, for an objective over more than an epoch itself measures.

    Attributes:
        sets: what the trained model is measured on in the end.
        scores: set to its scores by the latest model measured, before training that of the base.
        model: the one in training; None before it is there, or where it is sharded.
    """

    sets: Mapping[str, EvaluationSet]
    scores: dict[str, NDArray[np.float64]]
    model: Scorer | None = None

    @classmethod
    def of(cls, sets: Mapping[str, EvaluationSet], base: BaseResult | None) -> InTraining:
        """Nothing is measured yet but the base, where it was wanted."""
        scores = {} if base is None else {n: np.array(s) for n, s in base.scores.items()}
        return cls(sets, scores)

    def measure(self) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics by the names that objectives use, and the drift since last time as ``SET/...``.

        Raises:
            ScoreError: a score that is no finite number, naming its row.
        """
        assert self.model is not None
        results = measure(self.model, self.sets)
        drift: dict[str, float] = {}
        for name, result in results.items():
            if name in self.scores:
                moved = score_drift(self.scores[name], result.scores).metrics()
                drift |= {f"{name}/{what}": value for what, value in moved.items()}
            self.scores[name] = result.scores
        return known_metrics(results), drift


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


def epoch_drift(row: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """How scores have moved since they were measured before, by set, from a row of history."""
    found: dict[str, dict[str, float]] = {}
    for name, value in row.items():
        of, _, what = name.rpartition("/")
        if what in SCORE_DRIFT:
            found.setdefault(of, {})[what] = value
    return found


def guard_violations(guards: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """By how much each guard is violated, under ``guards/EXPRESSION``; 0 or less holds."""
    return {f"guards/{guard}": constraint_violation(guard, known) for guard in guards}


def contamination_of(path: str, of: EvaluationSet) -> dict[str, Any] | None:
    """What a trial's model has seen of an evaluation set; None for a model of no trial.

    Args:
        path: of the model, ``TRIAL/model``.
        of: the set.

    Returns:
        As :func:`contamination_report` has it of one set; or ``unknown`` and why, where the pairs
        that the trial trained on are no longer there.
    """
    folder = Path(path).absolute().parent
    if Path(path).name != MODEL or not (folder / FILE_NAME).is_file():
        return None
    record = TrialRecord.read(folder)
    data = record.trial_config.data
    try:
        train = reading.split_pairs(reading.read_pairs(data).pairs, data.split).train
    except UserError as error:
        return {"unknown": str(error)}
    train = train[: data.train_limit]
    if pairs_fingerprint(train).hexdigest != record.fingerprints["train"]["hexdigest"]:
        return {"unknown": "the training pairs have changed since the trial ran"}
    return contamination_report(train, {of.name: of})[of.name]


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
