"""The commands rate and rater: fill the store, teach a rater, check one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from rmexp.errors import UserError
from rmexp.rating.rater import Item
from rmexp.trial.rater_schema import ExemplarConfig, RaterConfig
from rmexp.trial.schema import LabellingConfig, RulesConfig
from rmexp.trial.section import Section
from rmexp.trial.tracked import TrackedConfig, tracked

if TYPE_CHECKING:
    from rmexp.preferences import Pair
    from rmexp.rating.check import RuleCheck
    from rmexp.rating.pairs import PairRatings
    from rmexp.rating.probe import Probe
    from rmexp.rules import RuleSet
    from rmexp.trial.labelled import RatedPairs


def default_cache_dir() -> Path:
    """The cache that the configs name: RMEXP_CACHE_DIR, else the user's cache folder."""
    own = os.environ.get("RMEXP_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmexp"


class RateConfig(TrackedConfig):
    """What is rated."""

    part: Literal["train", "validation", "test", "all"] = Field(
        "train", description="which part of the split; trials rate the training part only"
    )
    shards: int = Field(1, ge=1, description="jobs that share the pairs")
    shard: int = Field(0, ge=0, description="which of them this is, from 0")
    dry_run: bool = Field(False, description="say what would be asked of the rater; ask nothing")
    unrated: str | None = Field(None, description="JSONL file of what could not be rated, and why")

    @model_validator(mode="after")
    def _shard_exists(self) -> RateConfig:
        if self.shard >= self.shards:
            raise ValueError(f"shard: {self.shard} of {self.shards} shards; they count from 0")
        return self


@dataclass(frozen=True)
class Filled:
    """What filling the store came to.

    Attributes:
        read: what was read and dropped, as text.
        ratings: of the pairs.
        report: what the rater says of its work, such as requests, retries and cost; or None.
        unrated: responses and rules that could not be rated: plain rows, with the reason where
            the rater gives one.
    """

    read: str
    ratings: PairRatings
    report: str | None
    unrated: list[dict[str, Any]]


def fill_store(config: RateConfig, progress: Callable[[int, int], None] | None = None) -> Filled:
    """Rate what the store lacks; killed and started again, it goes on where it stopped."""
    from rmexp.trial import assembly
    from rmexp.trial.labelled import rate

    if config.unrated is not None and not Path(config.unrated).absolute().parent.is_dir():
        raise UserError(f"unrated: no folder {Path(config.unrated).absolute().parent}")
    read, pairs, rules = _to_rate(config)
    rater = assembly.rater(config, rules)
    with tracked(config, "rate", f"{config.shard}of{config.shards}") as run:
        start = time.monotonic()

        def advanced(done: int, wanted: int) -> None:
            told = {"ratings/seconds": time.monotonic() - start, "ratings/wanted": wanted}
            run.tracker.log(told, step_metric="ratings/done", step=done)
            if progress is not None:
                progress(done, wanted)

        rated = rate(config, pairs, rules, advanced, rater=rater)
        found = rated.ratings
        run.summary["ratings/rated"] = found.rated
        run.summary["ratings/reused"] = found.reused
        run.summary["ratings/failed"] = found.failed
    report = getattr(rater, "report", None)
    unrated = _unrated(rated, getattr(report, "reasons", {}))
    if config.unrated is not None:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in unrated]
        Path(config.unrated).write_text("".join(lines), encoding="utf-8")
    return Filled(read, rated.ratings, None if report is None else str(report), unrated)


def dry_run(config: RateConfig) -> str:
    """What :func:`fill_store` would ask of the rater, with its requests, tokens and cost."""
    from rmexp.rating.pairs import missing_ratings
    from rmexp.rating.store import RatingStore
    from rmexp.trial import assembly
    from rmexp.trial.labelled import chosen_before_rating, wanted_entries

    read, pairs, rules = _to_rate(config)
    chosen = chosen_before_rating(config, pairs, rules)
    asked = None if chosen is None else wanted_entries(chosen, len(rules))
    rater = assembly.rater(config, rules)
    with RatingStore(Path(config.cache_dir) / "ratings") as store:
        items, wanted = missing_ratings(pairs, rules, rater, store, asked)
    text = (
        f"{read}\n{len(pairs)} pairs, {len(rules)} rules: {int(wanted.sum())} ratings of "
        f"{len(items)} responses are missing"
    )
    estimate = getattr(rater, "estimate", None)
    return text if estimate is None else f"{text}\n{estimate(items, rules.rules, wanted)}"


def _to_rate(config: RateConfig) -> tuple[str, tuple[Pair, ...], RuleSet]:
    from rmexp.trial import assembly, reading
    from rmexp.trial.labelled import part_of

    assembly.check_before_anything_heavy(config, will_rate=not config.dry_run)
    rules = assembly.rule_set(config)
    data = reading.read_pairs(config.data)
    pairs = part_of(data, config.data, config.part)[config.shard :: config.shards]
    return str(data.report), pairs, rules


def _unrated(rated: RatedPairs, reasons: Mapping[tuple[Item, str], str]) -> list[dict[str, Any]]:
    from rmexp.trial.labelled import wanted_entries

    rows = []
    for side, psi in (("a", rated.ratings.psi_a), ("b", rated.ratings.psi_b)):
        lacking = np.isnan(psi)
        if rated.chosen is not None:
            lacking &= wanted_entries(rated.chosen, len(rated.rules))
        for row, column in np.argwhere(lacking):
            pair, rule = rated.pairs[row], rated.rules.rules[column]
            item = Item(pair.prompt, pair.response_a if side == "a" else pair.response_b)
            reason = reasons.get((item, rule.id), "the rater gave none")
            rows.append({"pair": pair.id, "response": side, "rule": rule.id, "reason": reason})
    return rows


class RaterCommandConfig(Section):
    """Labelled responses, and the rater they teach or check."""

    labels: str = Field(
        description="JSONL or Parquet rows of prompt, response, labels {rule id: true or false}"
    )
    rules: RulesConfig = RulesConfig()
    rater: RaterConfig = ExemplarConfig()
    encoder: str = Field("minilm", description="frozen sentence encoder of the probe (fit)")
    out: str = Field("probe", description="folder of the fitted probe (fit)")
    cache_dir: str = Field("", description="converted models")


def fit(config: RaterCommandConfig) -> Probe:
    """Teach a probe from labelled responses, and save it to ``config.out``."""
    from rmexp.trial import assembly

    labelled = _labelled(config)
    out = Path(config.out)
    if not out.absolute().parent.is_dir():
        raise UserError(f"out: no folder {out.absolute().parent} to write into")

    from rmexp.rating.probe import fit_probe

    encoder = assembly.sentence_encoder(config.encoder, Path(config.cache_dir))
    probe = fit_probe(labelled.items, labelled.rules, labelled.labels, encoder)
    probe.save(out)
    return probe


def check(config: RaterCommandConfig) -> tuple[list[RuleCheck], float]:
    """Compare a rater with labelled responses: one check a rule, and their mean AUC."""
    from rmexp.rating.check import check_rater, mean_auc
    from rmexp.trial import assembly

    labelled = _labelled(config)
    options = LabellingConfig(
        r=1, rules=config.rules, rater=config.rater, cache_dir=config.cache_dir
    )
    rater = assembly.rater(options, assembly.rule_set(options))
    checks = check_rater(rater, labelled.items, labelled.rules, labelled.labels)
    return checks, mean_auc(checks)


def _labelled(config: RaterCommandConfig) -> Any:
    from rmexp.rating.labelled import read_labelled
    from rmexp.rules import load_rule_set

    if not Path(config.labels).exists():
        raise UserError(f"labels: no such file: {config.labels}")
    rules = load_rule_set(config.rules.name, config.rules.path, config.rules.ids)
    return read_labelled(config.labels, rules)
