"""The command adapter: train a Rule Adapter from ratings, or check one on prompts never seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from rmexp.errors import UserError
from rmexp.trial.schema import ModelConfig
from rmexp.trial.tracked import TrackedConfig, tracked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmexp.adapter.settings import AdapterSettings
    from rmexp.preferences import PreferenceData
    from rmexp.rules import RuleSet
    from rmexp.statistics import Interval
    from rmexp.tracking import Tracker

REPORT_FILE = "quality.json"
MEASURES = ("precision", "jaccard", "top_recall", "label_agreement")


class BackboneConfig(ModelConfig):
    """The backbone, by the names that the reward model takes."""

    template: Literal["auto", "chat", "plain", "pair"] = Field(
        "auto", description="not used: a trio has a form of its own"
    )
    max_length: int = Field(512, ge=32, description="tokens of the prompt and both responses")


class AdapterConfig(TrackedConfig):
    """A Rule Adapter: its targets are the critical rules of (r, gamma) by full ratings."""

    model: BackboneConfig = BackboneConfig()
    out: str = Field("adapter", description="folder of the trained adapter (train)")
    path: str | None = Field(None, description="a trained adapter (check)")
    part: Literal["validation", "test"] = Field(
        "validation", description="held-out part of the split that is reported on"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    epochs: int = Field(3, ge=1, description="passes over the training pairs")
    batch_pairs: int = Field(8, ge=1, description="pairs in an optimiser step")
    warmup_steps: int = Field(10, ge=0, description="steps of linear warm-up")
    precision: Literal["32", "bf16"] = "32"
    device: str = Field("cpu", description="cpu, cuda, cuda:1, mps")
    threads: int | None = Field(None, ge=1, description="CPU threads; None for torch's own choice")
    seed: int = Field(0, ge=0, description="of the head and the order of pairs")

    @model_validator(mode="after")
    def _targets_are_adaptive(self) -> AdapterConfig:
        if self.selection.strategy != "adaptive":
            raise ValueError(
                f"selection.strategy={self.selection.strategy}: an adapter learns the critical "
                "rules of selection=adaptive"
            )
        return self


@dataclass(frozen=True)
class AdapterReport:
    """How an adapter and the baselines choose on held-out prompts.

    Attributes:
        part: of the split.
        r: rules chosen per pair.
        pairs: pairs compared.
        seen: pairs left out because the adapter was trained on their prompt.
        unrated: pairs left out because a rating of theirs is missing.
        quality: by who chooses, then by measure: the mean with its 95% interval over prompts.
        gain: by baseline, then by measure: what the adapter is better by, likewise.
    """

    part: str
    r: int
    pairs: int
    seen: int
    unrated: int
    quality: dict[str, dict[str, Interval]]
    gain: dict[str, dict[str, Interval]]

    def metrics(self) -> dict[str, float]:
        """The adapter's means, as a tracker takes them, and its gains over each baseline."""
        from rmexp.adapter.quality import ADAPTER

        found = {f"adapter/{m}": i.estimate for m, i in self.quality[ADAPTER].items()}
        for name, measures in self.gain.items():
            key = name.replace(" ", "_")
            found |= {f"adapter/{m}_over_{key}": i.estimate for m, i in measures.items()}
        return found

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def train(
    config: AdapterConfig, progress: Callable[[int, int], None] | None = None
) -> tuple[str, AdapterReport]:
    """Rate what the store lacks, train on the training part, save, and report on a held-out part.

    Args:
        config: of the command.
        progress: called with (ratings done, ratings wanted).

    Returns:
        What was read and dropped, as text; and the report, also written into the folder.

    Raises:
        UserError: naming key or folder.
    """
    from rmexp.backbone.described import model_description
    from rmexp.trial import assembly

    assembly.check_before_anything_heavy(config)
    model_description(config.model.name, "model.name")
    out = Path(config.out)
    if out.exists():
        raise UserError(f"out: {out} exists already; give a new folder")
    if not out.absolute().parent.is_dir():
        raise UserError(f"out: no folder {out.absolute().parent} to write into")
    with tracked(config, "adapter", out.name) as run:
        text, report = _train(config, out, run.tracker, progress)
        run.summary |= report.metrics()
    return text, report


def check(config: AdapterConfig) -> AdapterReport:
    """Report on a trained adapter, as a trial would use it, on a held-out part.

    Raises:
        UserError: naming key or folder.
    """
    from rmexp.trial import assembly, reading

    if config.path is None:
        raise UserError("path: missing; give the folder that 'rmexp adapter train' wrote")
    assembly.check_before_anything_heavy(config)
    rules = assembly.rule_set(config)
    settings = assembly.adapter_settings(config, rules, Path(config.path), "path")
    return _measure(config, Path(config.path), settings, reading.read_pairs(config.data), rules)


def _train(
    config: AdapterConfig,
    out: Path,
    tracker: Tracker,
    progress: Callable[[int, int], None] | None,
) -> tuple[str, AdapterReport]:
    from rmexp.adapter.train import AdapterTraining, train_rule_adapter
    from rmexp.trial import assembly, reading
    from rmexp.trial.labelled import part_of, rate, rated_enough
    from rmexp.trial.record import write_json

    _check_device(config.device)
    rules = assembly.rule_set(config)
    data = reading.read_pairs(config.data)
    pairs = part_of(data, config.data, "train")
    rated, critical, unrated = rated_enough(config, rate(config, pairs, rules, progress))
    adapter = train_rule_adapter(
        rated.pairs,
        critical,
        rules,
        AdapterTraining(
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            batch_pairs=config.batch_pairs,
            warmup_steps=config.warmup_steps,
            max_length=config.model.max_length,
            precision=config.precision,
            device=config.device,
            threads=config.threads,
            seed=config.seed,
        ),
        model=config.model.name,
        gamma=config.gamma,
        rater=rated.rater,
        embedder=assembly.sentence_encoder(config.rater.encoder, Path(config.cache_dir)),
        cache_dir=Path(config.cache_dir),
        report=lambda epoch, losses: tracker.log(
            {f"train/{name}": loss for name, loss in losses.items()},
            step_metric="epoch",
            step=epoch,
        ),
    )
    adapter.save(out)
    report = _measure(config, out, adapter.settings, data, rules)
    write_json(out / REPORT_FILE, report.to_plain())
    rows = [[who, *(q[m].estimate for m in MEASURES)] for who, q in report.quality.items()]
    tracker.table("adapter_quality", ["chooser", *MEASURES], rows)
    left_out = f"; left out of training {len(unrated)} not rated enough" if unrated else ""
    return f"{data.report}{left_out}", report


def _measure(
    config: AdapterConfig,
    folder: Path,
    settings: AdapterSettings,
    data: PreferenceData,
    rules: RuleSet,
) -> AdapterReport:
    from rmexp.adapter.quality import ADAPTER, baselines, selection_quality
    from rmexp.labelling.selectors import SelectionContext
    from rmexp.statistics import SHARE, bootstrap_mean, paired_difference
    from rmexp.trial import assembly
    from rmexp.trial.labelled import part_of, rate

    asked = part_of(data, config.data, config.part)
    unseen = settings.unseen(asked)
    rated = rate(config, unseen, rules)
    whole = ~np.isnan(rated.ratings.psi_a + rated.ratings.psi_b).any(axis=1)
    if not whole.any():
        raise UserError(f"part: no pair of '{config.part}' is left to compare on")
    pairs = [pair for pair, keep in zip(unseen, whole, strict=True) if keep]
    ratings = replace(
        rated.ratings,
        psi_a=rated.ratings.psi_a[whole],
        psi_b=rated.ratings.psi_b[whole],
        relevance=rated.ratings.relevance[whole],
    )
    context = SelectionContext(pairs, ratings.psi_a, ratings.psi_b, ratings.relevance)
    critical = assembly.selector(config, rules).select(context)
    selector = assembly.adapter_selector(config, rules, folder)
    chosen: dict[str, NDArray[np.int64]] = {
        ADAPTER: selector.select(SelectionContext(pairs)),
        **baselines(settings.frequency, ratings, config.r),
    }
    found = {
        name: selection_quality(rows, critical, ratings, config.selection.tie)
        for name, rows in chosen.items()
    }

    def interval(values: Any, than: Any = None) -> Interval:
        known = ~np.isnan(values)
        groups = [pair.prompt for pair, k in zip(pairs, known, strict=True) if k]
        if than is None:
            return bootstrap_mean(values[known], groups=groups, bounds=SHARE)
        return paired_difference(values[known], than[known], groups=groups, bounds=SHARE)

    return AdapterReport(
        part=config.part,
        r=config.r,
        pairs=len(pairs),
        seen=len(asked) - len(unseen),
        unrated=len(unseen) - len(pairs),
        quality={w: {m: interval(v) for m, v in values.items()} for w, values in found.items()},
        gain={
            who: {m: interval(found[ADAPTER][m], v) for m, v in values.items()}
            for who, values in found.items()
            if who != ADAPTER
        },
    )


def _check_device(name: str) -> None:
    """Before anything is rated for a training that cannot run."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # unknown, or not there
        raise UserError(f"device: '{name}' cannot be used: {str(error).splitlines()[0]}") from error
