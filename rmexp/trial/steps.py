"""The steps of a trial: each takes what the one before gave, and notes it for the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmexp.backbone.frozen import GB
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.sources import resolve_model, weights_fingerprint
from rmexp.backbone.tokens import TokenStore
from rmexp.evaluation.distribution import score_drift
from rmexp.evaluation.objective import evaluate_objective, names_in
from rmexp.evaluation.scorer import Scorer
from rmexp.evaluation.sets import EvaluationSet, SetResult, evaluate_set, pairs_set
from rmexp.labelling.labels import Labels
from rmexp.preferences import Pair, Splits, pairs_fingerprint
from rmexp.rating.pairs import OnMissing
from rmexp.reward.data import TrainingPairs
from rmexp.reward.model import load_reward_model
from rmexp.reward.options import LossOptions
from rmexp.reward.train import train_reward_model
from rmexp.rules import RuleSet
from rmexp.tracking import Tracker
from rmexp.trial import assembly
from rmexp.trial.failure import FailureKind
from rmexp.trial.labelled import LabelledPairs, RatedPairs, label, rate
from rmexp.trial.measured import (
    BASE,
    BaseResult,
    InTraining,
    contamination_report,
    drift_from,
    epoch_drift,
    guard_violations,
    measure,
    scoring_device,
    wrongly_ranked,
)
from rmexp.trial.reading import VALIDATION, judged, known_metrics, read_splits
from rmexp.trial.record import MODEL, State, TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig
from rmexp.trial.versions import code_fingerprint, library_versions

if TYPE_CHECKING:
    from rmexp.fingerprint import Fingerprint

Report = Callable[[int, float], bool]
Progress = Callable[[str], None]
Advance = Callable[[int, int], None]


class Pruned(Exception):
    """The search has seen enough of this trial."""


@dataclass
class RunningTrial:
    """What the steps of a trial gather for its record."""

    config: TrialConfig
    directory: Path
    identity: TrialIdentity
    tracker: Tracker
    progress: Progress
    advance: Advance | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    fingerprints: dict[str, Any] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    objectives: list[float] = field(default_factory=list)
    resume: bool = False
    must_resume: bool = False
    base: Fingerprint | None = None

    def measure(self, metrics: Mapping[str, float]) -> None:
        """Take the objectives from what is known."""
        wanted = self.config.evaluation.objectives
        self.objectives = [evaluate_objective(expression, metrics) for expression in wanted]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and say that it runs."""
        self.progress(name)
        start = time.monotonic()
        try:
            yield
        finally:
            self.times[name] = round(time.monotonic() - start, 3)

    def identify(self, name: str, value: Fingerprint) -> None:
        """Note what a fingerprint of the trial is made of."""
        self.fingerprints[name] = value.to_plain()

    def record(
        self, state: State, reason: str, traceback: str = "", failure: FailureKind | None = None
    ) -> TrialRecord:
        """The record as it stands."""
        return TrialRecord(
            state=state,
            reason=reason,
            objective=self.objectives[0] if self.objectives else None,
            objectives=self.objectives,
            config=self.config.to_plain(),
            identity=self.identity,
            metrics=self.metrics,
            history=self.history,
            fingerprints=self.fingerprints,
            seeds={"trial": self.config.seed, "split": self.config.data.split.seed},
            versions=library_versions(),
            times=self.times,
            paths={"model": MODEL} if (self.directory / MODEL).is_dir() else {},
            report=self.report,
            traceback=traceback,
            failure=failure,
        )


def note_contamination(
    trial: RunningTrial, splits: Splits, sets: Mapping[str, EvaluationSet]
) -> None:
    """Before training, so that a contaminated set is known whatever becomes of the trial."""
    compared = {**sets, "test": pairs_set(splits.test, "test")} if splits.test else sets
    found = contamination_report(splits.train, compared)
    trial.report["contamination"] = found
    trial.metrics |= {f"contamination/{n}": float(c["contaminated"]) for n, c in found.items()}


def evaluate(
    trial: RunningTrial,
    splits: Splits,
    sets: Mapping[str, EvaluationSet],
    base: BaseResult | None,
) -> None:
    """Measure the saved model; the objective and the guards from what was measured."""
    scorer = load_reward_model(trial.directory / MODEL, device=scoring_device(trial.config))
    scorer.progress = trial.advance
    config = trial.config
    scorer.store = TokenStore(scorer.template, Path(config.cache_dir))
    if trial.base is not None:
        peft = PeftOptions(**config.peft.model_dump())
        scorer.keep_frozen_states(peft, trial.base, Path(config.cache_dir), _frozen_bytes(config))
    results = measure(scorer, sets)
    for name, result in results.items():
        _note_evaluation(trial, name, result)
    if VALIDATION in results:
        columns, rows = wrongly_ranked(results[VALIDATION])
        trial.tracker.table("wrongly_ranked", columns, rows)
        trial.report["wrongly_ranked"] = {"columns": columns, "rows": rows}
    if results:
        options = trial.config.evaluation
        known = known_metrics(results) | _base_metrics(base)
        trial.measure(known)
        trial.metrics |= guard_violations(options.guards, known)
    if base is not None:
        trial.report["base"] = base.metrics
        trial.report["drift"] = drift_from(base, results)
    if trial.config.evaluation.test:
        test = pairs_set(judged(splits.test, "test"), "test")
        _note_evaluation(trial, "test", evaluate_set(scorer, test))


def _base_metrics(base: BaseResult | None) -> dict[str, float]:
    return {} if base is None else {f"{BASE}{n}": v for n, v in base.metrics.items()}


def read_and_note(trial: RunningTrial, rules: RuleSet) -> Splits:
    """The pairs in their parts, with their identities and what was dropped."""
    config = trial.config
    data, splits = read_splits(config.data)
    trial.identify("pairs", data.fingerprint)
    for name in ("train", "validation", "test"):
        trial.identify(name, pairs_fingerprint(getattr(splits, name)))
    trial.identify("rules", rules.fingerprint)
    trial.identify("code", code_fingerprint())
    trial.report["data"] = data.report.to_plain()
    trial.report["split"] = {
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
        "prompts grouped": splits.grouped,
        "near copies grouped": splits.near,
    }
    return splits


def rate_training_pairs(
    trial: RunningTrial,
    pairs: Sequence[Pair],
    rules: RuleSet,
    *,
    on_missing: OnMissing | None = None,
) -> RatedPairs:
    """Ratings of the training pairs; what the store has is not paid for."""
    rated = rate(trial.config, pairs, rules, trial.advance, on_missing=on_missing)
    trial.identify("rater", rated.rater)
    if trial.config.selection.strategy == "adapter":
        trial.identify("adapter", assembly.selector(trial.config, rules).fingerprint)
    trial.metrics["ratings/rated"] = rated.ratings.rated
    trial.metrics["ratings/reused"] = rated.ratings.reused
    return rated


def label_training_pairs(trial: RunningTrial, rated: RatedPairs) -> LabelledPairs:
    """Critical rules and labels of the rated pairs."""
    labelled = label(trial.config, rated)
    trial.metrics |= labelled.metrics()
    return labelled


def train(
    trial: RunningTrial,
    splits: Splits,
    labelled: LabelledPairs,
    sets: Mapping[str, EvaluationSet],
    base: BaseResult | None,
    report: Report | None,
) -> None:
    """Train on the labels; report after each epoch, and raise :class:`Pruned` where told to."""
    config = trial.config
    between = InTraining.of(sets, base)
    measured = judged(splits.validation, "validation") if splits.validation else None

    def begun(model: Scorer) -> None:
        between.model = model

    objectives = config.evaluation.objectives
    wanted = {name for o in objectives for name in names_in(o)}

    def known_of(row: Mapping[str, float]) -> dict[str, float]:
        part = "validation/"
        known = {n.removeprefix(part): v for n, v in row.items() if n.startswith(part)}
        known |= {n: row[n] for n in wanted if n in row}
        return known | _base_metrics(base)

    def take(row: Mapping[str, float], known: Mapping[str, float], needed: set[str]) -> bool:
        """Note an epoch and report it; whether the search has seen enough."""
        trial.history.append(dict(row))
        # The first epoch has moved from the base only, which the end of the trial tells.
        if row["epoch"] > 1 and (moved := epoch_drift(row)):
            trial.report["drift_between_epochs"] = moved
        trial.tracker.log(
            {n: v for n, v in row.items() if n != "epoch"}, step_metric="epoch", step=row["epoch"]
        )
        # What is not measured between epochs is known at the end only.
        if not needed <= known.keys():
            return False
        trial.measure(known)
        # Several values have no order, so nothing can be pruned by them.
        if report is None or len(objectives) > 1:
            return False
        return report(int(row["epoch"]), trial.objectives[0])

    def resumed(rows: Sequence[Mapping[str, float]]) -> None:
        """The epochs before the checkpoint; that the trial went on behind them is decided."""
        for row in rows:
            take(row, known_of(row), wanted)
        if rows:
            between.scores.clear()  # of another model than the last epoch's

    def after_epoch(epoch: int, metrics: Mapping[str, float]) -> dict[str, float]:
        known, needed = known_of(metrics), wanted
        added: dict[str, float] = {}
        measurable = config.evaluation.every_epoch and between.model and sets
        if measurable and not needed <= known.keys():
            found, drift = between.measure()
            known |= found
            added = drift | {n: v for n, v in found.items() if n in wanted}
            needed = set()  # what is unknown now is a mistake, to be told before more epochs
        if take({"epoch": epoch, **metrics, **added}, known, needed) and epoch < config.epochs:
            value = trial.objectives[0]
            raise Pruned(f"pruned after epoch {epoch} at {objectives[0]}={value:.4f}")
        return added

    # Before training: a trial that is pruned must tell what it began with, too.
    cache = Path(config.cache_dir)
    path = resolve_model(config.model.name, cache)
    trial.base = weights_fingerprint(path, commit=True, cache_dir=cache)
    trial.identify("model", trial.base)
    trained = train_reward_model(
        training_pairs(labelled.rated.pairs, labelled.labels, config),
        measured if config.evaluation.every_epoch else None,
        model=config.model.name,
        template=config.model.template,
        max_length=config.model.max_length,
        peft=PeftOptions(**config.peft.model_dump()),
        loss=LossOptions(
            label_smoothing=config.loss.label_smoothing,
            center_coefficient=config.loss.center_coefficient,
        ),
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_pairs=config.trainer.batch_pairs,
        micro_batch_pairs=config.trainer.micro_batch_pairs,
        token_budget=config.trainer.token_budget,
        warmup_steps=config.trainer.warmup_steps,
        weight_decay=config.trainer.weight_decay,
        precision=config.trainer.precision,
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        nodes=config.trainer.nodes,
        strategy=config.trainer.strategy,
        threads=config.trainer.threads,
        deterministic=config.trainer.deterministic,
        seed=config.seed,
        directory=trial.directory,
        cache_dir=Path(config.cache_dir),
        report=after_epoch,
        resumed=resumed,
        begun=begun,
        drift=lambda earlier, later: score_drift(earlier, later).metrics(),
        resume=trial.resume,
        must_resume=trial.must_resume,
        checkpoint_steps=config.trainer.checkpoint_steps,
        frozen_cache_bytes=_frozen_bytes(config),
        sharded_checkpoints=config.trainer.sharded_checkpoints,
        attention=config.trainer.attention,
        gradient_checkpointing=config.trainer.gradient_checkpointing,
        compile_model=config.trainer.compile,
        resolved=config.to_plain(),
        progress=trial.advance,
    )
    trial.metrics |= {f"train/{name}": value for name, value in trained.metrics.items()}
    if trained.warnings:
        trial.report["warnings"] = trained.warnings


def _frozen_bytes(config: TrialConfig) -> int:
    return int(config.trainer.frozen_cache_gb * GB)


def training_pairs(pairs: Sequence[Pair], labels: Labels, config: TrialConfig) -> TrainingPairs:
    """The kept pairs with the labelled side as chosen.

    With ``selection.tie=half`` a tie keeps its order and gets the target 1/2.
    """
    kept = np.flatnonzero(labels.kept).tolist()
    prefer_a = labels.preferred[kept] != 0
    size = np.abs(labels.margin[kept])
    chosen = [p.response_a if a else p.response_b for p, a in _zip(pairs, kept, prefer_a)]
    rejected = [p.response_b if a else p.response_a for p, a in _zip(pairs, kept, prefer_a)]
    return TrainingPairs(
        ids=[pairs[i].id for i in kept],
        prompts=[pairs[i].prompt for i in kept],
        chosen=chosen,
        rejected=rejected,
        margin=size * config.loss.margin_scale if config.loss.margin_scale else None,
        target=labels.target[kept] if config.selection.tie == "half" else None,
        weight=size / size.mean() if config.loss.weight_by_margin and size.any() else None,
    )


def _zip(
    pairs: Sequence[Pair], kept: Sequence[int], prefer_a: np.ndarray
) -> Iterator[tuple[Pair, bool]]:
    return ((pairs[i], bool(a)) for i, a in zip(kept, prefer_a, strict=True))


def _note_evaluation(trial: RunningTrial, part: str, result: SetResult) -> None:
    trial.metrics |= {f"{part}/{name}": value for name, value in result.metrics.items()}
    trial.report[part] = result.to_plain()


def log_samples(trial: RunningTrial, labelled: LabelledPairs) -> None:
    """Tables that a person can read, to the tracker and the record."""
    for name, (columns, rows) in labelled.tables().items():
        trial.tracker.table(name, columns, rows)
        trial.report[name] = {"columns": columns, "rows": rows}
