"""From a config to objects: the only place where configuration chooses classes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.errors import UserError
from rmexp.rules import RuleSet, load_rule_set, suggestion
from rmexp.tracking import NullTracker, RunInfo, Tracker
from rmexp.trial import early
from rmexp.trial.rater_schema import OpenAIConfig
from rmexp.trial.record import TrialIdentity
from rmexp.trial.schema import (
    LabellingConfig,
    TrackerConfig,
    TrialConfig,
)

if TYPE_CHECKING:
    from rmexp.adapter.selector import AdapterSelector
    from rmexp.adapter.settings import AdapterSettings
    from rmexp.backbone.embedding import SentenceEncoder
    from rmexp.evaluation.scorer import Scorer
    from rmexp.fingerprint import Fingerprint
    from rmexp.labelling.selectors import Selector
    from rmexp.rating.rater import Rater


def rule_set(config: LabellingConfig) -> RuleSet:
    """The rule set, checked against what the config asks of it.

    Raises:
        UserError: r above the number of rules, or a rule of selection.rules that is not there.
    """
    rules = load_rule_set(config.rules.name, config.rules.path, config.rules.ids)
    if config.r > len(rules):
        raise UserError(
            f"r: {config.r} critical rules from a set of {len(rules)} ({rules.name}); "
            f"use r={len(rules)} or less, or a larger rule set"
        )
    if config.selection.rules is not None:
        known = set(rules.ids)
        for rule_id in config.selection.rules:
            if rule_id not in known:
                raise UserError(
                    f"selection.rules: no rule '{rule_id}' in set '{rules.name}'"
                    + suggestion(rule_id, rules.ids)
                )
    return rules


def check_before_anything_heavy(config: LabellingConfig, will_rate: bool = True) -> None:
    """Tell the mistakes that can be told without loading a model; makes nothing but the cache.

    Local files are read, and remembered: the trial does not read them again.

    Args:
        config: of a trial, or of another command that labels.
        will_rate: whether the rater will be asked, and so must have its key.

    Raises:
        UserError: naming the key, file or folder.
    """
    rules = rule_set(config)
    if config.selection.path is not None:
        adapter_settings(config, rules, Path(config.selection.path), "selection.path")
    if isinstance(config, TrialConfig):
        early.check_expressions(config.evaluation)
        early.check_backbone(config)
        if config.peft.kind == "qlora":
            from rmexp.backbone.quantised import check_qlora

            check_qlora()
    early.check_rater(config.rater)
    if config.rater.kind == "exemplar":
        from rmexp.rating.exemplar import check_examples

        check_examples(rules)
    if config.rater.kind == "openai" and will_rate and config.rating.on_missing == "rate":
        from rmexp.rating.endpoint import check_key

        check_key(config.rater.base_url)
    early.check_data(config)
    cache = Path(config.cache_dir)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache_dir: cannot make {cache}: {error.strerror}") from error


def sentence_encoder(name: str, cache_dir: Path) -> SentenceEncoder:
    """The sentence encoder of that name."""
    from rmexp.backbone.embedding import SentenceEncoder
    from rmexp.backbone.sources import resolve_model

    return SentenceEncoder(resolve_model(name, cache_dir), cache_dir=cache_dir)


def rater(
    config: LabellingConfig,
    rules: RuleSet,
    encoder_of: Callable[[str, Path], Any] = sentence_encoder,
) -> Rater:
    """The rater that the config names.

    Args:
        config: of the trial.
        rules: what will be rated; recorded ratings name their columns by it.
        encoder_of: the sentence encoder of a name.
    """
    options = config.rater
    cache = Path(config.cache_dir)
    if options.kind == "exemplar":
        from rmexp.rating.exemplar import ExemplarRater

        return ExemplarRater(encoder_of(options.encoder, cache))
    if options.kind == "probe":
        from rmexp.rating.probe import ProbeRater, load_probe

        probe = load_probe(Path(options.path))
        return ProbeRater(probe, encoder_of(options.encoder, cache))
    if options.kind == "causal_lm":
        from rmexp.backbone.sources import resolve_model
        from rmexp.rating.causal_lm import CausalLMRater

        return CausalLMRater(
            resolve_model(options.model, cache),
            dtype=options.dtype,
            max_length=options.max_length,
            cache_dir=cache,
        )
    if options.kind == "openai":
        return _openai_rater(options)
    if options.kind == "recorded":
        from rmexp.rating.recorded import RecordedRater

        return RecordedRater(options.path, rules, encoder_of(options.encoder, cache))
    return _custom_rater(options.target, options.options)


def rater_fingerprint(config: LabellingConfig, rules: RuleSet) -> Fingerprint:
    """Identity of the rater that the config names; no model's weights are loaded for it."""
    options = config.rater
    if options.kind == "causal_lm":
        from rmexp.backbone.sources import resolve_model
        from rmexp.rating.causal_lm import causal_lm_fingerprint

        cache_dir = Path(config.cache_dir)
        path = resolve_model(options.model, cache_dir)
        return causal_lm_fingerprint(
            path, dtype=options.dtype, max_length=options.max_length, cache_dir=cache_dir
        )
    return rater(config, rules, _EncoderIdentity).fingerprint


class _EncoderIdentity:
    """A sentence encoder's identity alone, for a rater that will not be asked."""

    def __init__(self, name: str, cache_dir: Path):
        from rmexp.backbone.sources import encoder_fingerprint, resolve_model

        self.fingerprint = encoder_fingerprint(resolve_model(name, cache_dir), cache_dir=cache_dir)


def relevance_encoder(config: LabellingConfig, rater: Rater) -> SentenceEncoder | None:
    """What gives relevance for a rater that measures none and embeds nothing itself."""
    if config.rater.kind == "causal_lm" or getattr(rater, "embedder", None) is not None:
        return None
    if getattr(rater, "gives_relevance", False):
        return None
    return sentence_encoder(config.rater.encoder, Path(config.cache_dir))


def selector(config: LabellingConfig, rules: RuleSet) -> Selector:
    """The strategy that chooses critical rules."""
    from rmexp.labelling import selectors

    options = config.selection
    if options.strategy == "adaptive":
        return selectors.AdaptiveSelector(r=config.r, gamma=config.gamma)
    if options.strategy == "all":
        return selectors.AllSelector(len(rules))
    if options.strategy == "random":
        return selectors.RandomSelector(r=config.r, rules=len(rules), seed=options.seed)
    if options.strategy == "fixed":
        assert options.rules is not None
        return selectors.FixedSelector(tuple(rules.ids.index(i) for i in options.rules))
    assert options.path is not None
    return adapter_selector(config, rules, Path(options.path))


def adapter_selector(config: LabellingConfig, rules: RuleSet, folder: Path) -> AdapterSelector:
    """A Rule Adapter as a selector."""
    from rmexp.adapter.selector import AdapterSelector

    cache = Path(config.cache_dir)
    encoder = config.rater.encoder
    return AdapterSelector(folder, rules, config.r, lambda: sentence_encoder(encoder, cache), cache)


def adapter_settings(
    config: LabellingConfig, rules: RuleSet, folder: Path, key: str
) -> AdapterSettings:
    """What is known of a trained Rule Adapter, checked against the config; loads no model.

    Raises:
        UserError: naming the key: no adapter is there, or it is for another rule set or gamma.
    """
    from rmexp.adapter.settings import check_rules, read_settings

    try:
        settings = read_settings(folder)
        check_rules(settings, rules, folder)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if settings.gamma != config.gamma:
        raise UserError(
            f"gamma: {config.gamma:g}, but the Rule Adapter in {folder} was trained for "
            f"{settings.gamma:g}; use gamma={settings.gamma:g}, or train another adapter"
        )
    return settings


def tracker(config: TrackerConfig, info: RunInfo) -> Tracker:
    """The tracker; with ``none`` wandb is never imported."""
    if config.kind == "none":
        return NullTracker()
    from rmexp.tracking.wandb_run import WandbTracker

    return WandbTracker(info, project=config.project, entity=config.entity, mode=config.mode)


def run_info(config: TrialConfig, identity: TrialIdentity, directory: Path) -> RunInfo:
    """What identifies a trial's run at the tracker."""
    number = "" if identity.number is None else f"-{identity.number:04d}"
    if identity.seed is None:
        run, job_type = directory.name, identity.job_type
    else:
        # Beside the trial's own run, which has the means.
        run, job_type = f"{directory.parent.name}-seed{identity.seed}", "seed"
        number += f"-seed{identity.seed}"
    return RunInfo(
        id=identity.run_id or f"run-{run}",
        name=f"{identity.study or 'run'}{number}",
        group=identity.study,
        job_type=job_type,
        config=config.to_plain(),
        directory=directory,
    )


def custom_scorer(target: str, options: Mapping[str, Any]) -> Scorer:
    """Your own scorer class."""
    made: Scorer = _made("model.target", target, options, ("score",), "rmexp.evaluation.scorer")
    return made


def custom_class(key: str, target: str) -> Any:
    """Your own class, not made yet.

    Args:
        key: that names it, for messages.
        target: ``package.module:Class``; the module stands in the folder where the command runs, or
            is installed.

    Raises:
        UserError: there is none.
    """
    module, _, name = target.partition(":")
    if not (module and name):
        raise UserError(f"{key}: '{target}' names no class; write package.module:Class")
    here = os.getcwd()
    if here not in sys.path:
        # As with python -m rmexp; last, so that no file here hides an installed module.
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if not f"{module}.".startswith(f"{missing}."):
            raise UserError(f"{key}: cannot make '{target}': {error}") from error
        file = Path(here, *missing.split(".")).with_suffix(".py")
        raise UserError(
            f"{key}: cannot make '{target}': no module '{missing}': neither {file} nor an "
            "installed one; it must be importable from the folder where the command runs"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: cannot make '{target}': {error}") from error


def _openai_rater(options: OpenAIConfig) -> Rater:
    from rmexp.rating.api_report import Price
    from rmexp.rating.openai_api import OpenAIRater

    return OpenAIRater(
        options.model,
        base_url=options.base_url,
        concurrency=options.concurrency,
        timeout=options.timeout,
        attempts=options.attempts,
        probabilities=options.probabilities,
        rules_per_request=options.rules_per_request,
        max_cost=options.max_cost,
        price=None if options.price is None else Price(**options.price.model_dump()),
    )


def _custom_rater(target: str, options: Mapping[str, Any]) -> Rater:
    wanted = ("rate", "fingerprint")
    made: Rater = _made("rater.target", target, options, wanted, "rmexp.rating.rater")
    return made


def _made(
    key: str, target: str, options: Mapping[str, Any], wanted: Sequence[str], protocol: str
) -> Any:
    try:
        made = custom_class(key, target)(**options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{key}: cannot make '{target}': {error}") from error
    for attribute in wanted:
        if not hasattr(made, attribute):
            raise UserError(f"{key}: '{target}' has no '{attribute}' (see {protocol})")
    return made
