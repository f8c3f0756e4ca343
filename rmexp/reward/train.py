"""Train a reward model on labelled pairs."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from rmexp.backbone.frozen import GB, FrozenStates
from rmexp.backbone.options import AttentionKind, PeftOptions, Precision
from rmexp.backbone.sharding import StrategyName, strategy_of, whole_weights
from rmexp.backbone.sources import resolve_model, weights_fingerprint
from rmexp.backbone.text import TemplateName
from rmexp.backbone.threads import torch_threads
from rmexp.backbone.tokens import TokenStore
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences.pair import Pair
from rmexp.reward.batches import micro_batches, tokenise_pairs
from rmexp.reward.checkpoint import KeepLast, why_never
from rmexp.reward.checkpoint_files import (
    CHECKPOINTS,
    checkpoint_to_go_on,
    remove_checkpoints,
)
from rmexp.reward.data import TrainingPairs
from rmexp.reward.loaders import PairLoaders
from rmexp.reward.model import RewardModel
from rmexp.reward.module import Drift, Report, Resumed, RewardModule
from rmexp.reward.options import LossOptions, OptimiserOptions, Schedule
from rmexp.reward.progress import StepProgress, Warnings
from rmexp.reward.ranks import SameRun, rank_environment
from rmexp.reward.trainable import text_template, trainable_classifier

FROZEN_CACHE_BYTES = 4 * GB


@dataclass(frozen=True)
class TrainedModel:
    """What training left.

    Attributes:
        path: the saved folder, None where saving was not asked for.
        model: the reward model, ready to score (a sharded one only after loading it from path).
        history: one row an epoch: epoch, step, train/* and validation/* (loss, accuracy, margin,
            reward_mean, reward_std, what drift gives), train/gradient_norm,
            train/tokens_per_second.
        metrics: pairs given, dropped (and why) and truncated, texts tokenised by this call, texts
            whose frozen states were computed, reused or left out (for want of room), seconds and
            tokens_per_second (real tokens) of training over all epochs.
        base_fingerprint: identity of the weights that training started from.
        warnings: where the run was not as it was asked, in words, as they were said before it.
    """

    path: Path | None
    model: RewardModel
    history: list[dict[str, float]]
    metrics: dict[str, float]
    base_fingerprint: Fingerprint
    warnings: list[str]


def train_reward_model(
    train: TrainingPairs,
    validation: Sequence[Pair] | None,
    *,
    model: Path | str,
    directory: Path,
    cache_dir: Path,
    seed: int,
    peft: PeftOptions = PeftOptions(),  # noqa: B008 (frozen)
    loss: LossOptions = LossOptions(),  # noqa: B008 (frozen)
    learning_rate: float = 2e-5,
    warmup_steps: int = 10,
    weight_decay: float = 0.0,
    schedule: Schedule = "linear",
    gradient_clip: float | None = 1.0,
    epochs: int = 2,
    batch_pairs: int = 8,
    shuffle: bool = True,
    max_length: int = 1024,
    template: TemplateName = "auto",
    precision: Precision = "32",
    micro_batch_pairs: int | None = None,
    token_budget: int = 512,
    share_prompts: bool = True,
    frozen_cache_bytes: int = FROZEN_CACHE_BYTES,
    threads: int | None = None,
    deterministic: bool = True,
    accelerator: str = "cpu",
    devices: int = 1,
    strategy: StrategyName = "auto",
    nodes: int = 1,
    report: Report | None = None,
    resumed: Resumed | None = None,
    begun: Callable[[RewardModel], None] | None = None,
    drift: Drift | None = None,
    resume: bool = False,
    must_resume: bool = False,
    checkpoint_steps: int = 0,
    sharded_checkpoints: bool = False,
    attention: AttentionKind = "sdpa",
    gradient_checkpointing: bool = False,
    compile_model: bool = False,
    save: bool = True,
    progress: Callable[[int, int], None] | None = None,
    resolved: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Train by the Bradley-Terry loss and save the result.

    On a CPU the same seed and thread count give bit-equal weights.

    Args:
        train: labelled pairs.
        validation: held-out pairs; those with a human preference are scored after each epoch.
        model: a name, folder or hub name (see ``resolve_model``).
        directory: of the trial; the model is saved to ``directory/model``.
        cache_dir: where converted models and tokens are kept.
        seed: of the head, the adapters and the order of pairs.
        peft: which weights are trained.
        loss: the loss's options.
        learning_rate: the highest rate of AdamW, which takes more steps than ``warmup_steps``.
        warmup_steps: steps of linear rise to it. Says so where the run has no more than these.
        weight_decay: on matrices only.
        schedule: after the rise, linear decay to zero over the run, or constant.
        gradient_clip: largest norm of the whole gradient, None for no clipping.
        epochs: passes over the pairs.
        batch_pairs: pairs in one optimiser step, over all ranks.
        micro_batch_pairs: pairs that a rank runs before it goes back: what they compute is all
            that is kept, whatever a step's size, and the step is the same but for rounding. None
            for all at once.
        shuffle: a fresh seeded order each epoch; else the given order.
        max_length: tokens of prompt and response; the prompt is cut from its left.
        template: auto, chat, plain or pair.
        precision: 32, or bf16: products in bfloat16; trained weights, head and loss stay in
            float32, so that small updates are not rounded away.
        token_budget: tokens in one forward pass, of which a micro-batch may take several; for
            speed, not for memory. On a CPU 512 at most.
        share_prompts: whether the sides of a pair run their common beginning once (causal models;
            the scores are the same).
        frozen_cache_bytes: room on disk for what frozen layers give (head_only, last_k), 0 to run
            them each time.
        threads: of torch on the CPU; None leaves them.
        deterministic: ask for deterministic kernels on a GPU too (the CPU's always are).
        accelerator: cpu, gpu or mps.
        devices: processes on each node, one a device.
        strategy: auto (one device), ddp, or fsdp (fsdp2 is another name for it).
        nodes: machines, under torchrun or SLURM.
        report: called after each epoch with (epoch, metrics) on rank 0; may raise to stop. Metrics
            that it returns are kept in the history.
        resumed: called on rank 0 where a run goes on, with the history of the epochs behind it.
        begun: called before the first step with the model that is trained, which a report may
            score with; not called for a sharded one, which takes every rank to score.
        drift: from the scores of the validation pairs ``[2 * pairs]``, chosen first, by the epoch
            before and by this one, numbers that join the epoch's as ``validation/NAME``.
        resume: go on from the last checkpoint in the directory, where there is one of this very
            run; says so where it is another's, and begins anew.
        must_resume: the same, but refuse to begin anew.
        checkpoint_steps: optimiser steps between two checkpoints, 0 for none; one that is due on an
            epoch's last step is written on the next. Says so where there is no place for any.
        sharded_checkpoints: each rank writes its own part of a checkpoint (fsdp), so that no
            rank ever holds the whole; ``rmexp export`` puts the parts together.
        attention: sdpa, rows of like length with a mask each; or flex, pairs packed into rows of
            ``token_budget`` tokens for FlexAttention, whose kernel for training is a GPU's.
        gradient_checkpointing: run each layer again in the backward pass, instead of keeping what
            it computed: less memory, about a third more time, the same losses.
        compile_model: compile the layers (a minute or more at the start).
        save: whether to write the model.
        resolved: the whole config, where this is part of a trial; with several ranks each proves
            before fit that it holds the same one. The options here and the texts and labels of all
            pairs they prove in any case. (Threads may differ, as machines do.)
        progress: called after each optimiser step with (steps done, all steps), on rank 0.

    Raises:
        DifferentRuns: it does not.
        UserError: no pair is left to train on, an option does not fit the model, or there is no
            checkpoint of this run where ``must_resume`` asks for one.
        NonFiniteError: a loss is NaN or infinite; names the pairs.
    """
    if epochs < 1 or batch_pairs < 1:
        raise UserError("epochs and batch_pairs must be at least 1")
    environment = rank_environment(devices, nodes)
    optimiser = OptimiserOptions(learning_rate, weight_decay, warmup_steps, schedule, gradient_clip)
    checkpoints = directory / CHECKPOINTS
    with torch_threads(threads), torch.random.fork_rng(devices=[]), _quiet_lightning():
        torch.manual_seed(seed)

        path = resolve_model(model, cache_dir)
        weights = weights_fingerprint(path, commit=True, cache_dir=cache_dir)
        classifier, untrained = trainable_classifier(
            path,
            precision=precision,
            seed=seed,
            peft=peft,
            loss=loss,
            attention=attention,
            gradient_checkpointing=gradient_checkpointing,
            compile_model=compile_model,
        )
        form = text_template(classifier, template, max_length)
        store = TokenStore(form, cache_dir)
        data = tokenise_pairs(train, store)
        if not len(data.pairs):
            raise UserError(f"no pair is left to train on: {data.counts}")
        held_out = TrainingPairs.from_preferences(validation or ())
        checked = tokenise_pairs(held_out, store) if len(held_out) else None

        frozen = None
        if classifier.frozen_layers and frozen_cache_bytes:
            frozen = FrozenStates(classifier, weights, cache_dir, frozen_cache_bytes)
        loaders = PairLoaders(
            data,
            checked,
            classifier,
            frozen,
            batch_pairs=batch_pairs,
            micro_batch_pairs=micro_batch_pairs,
            token_budget=token_budget,
            share_prompts=share_prompts,
            shuffle=shuffle,
            seed=seed,
        )
        steps_an_epoch = -(-len(data.pairs) // batch_pairs)
        steps = epochs * steps_an_epoch
        module = RewardModule(
            classifier,
            ids=data.pairs.ids,
            validation_ids=checked.pairs.ids if checked else (),
            loss=loss,
            optimiser=optimiser,
            steps=steps,
            report=report,
            drift=drift,
            resumed=resumed,
        )
        # What the result depends on; a checkpoint of other parts is another run's.
        parts: dict[str, Any] = {
            "model": weights,
            "seed": seed,
            "peft": asdict(peft),
            "loss": asdict(loss),
            "optimiser": asdict(optimiser),
            "epochs": epochs,
            "batch_pairs": batch_pairs,
            "micro_batch_pairs": micro_batch_pairs,
            "shuffle": shuffle,
            "precision": precision,
            "token_budget": token_budget,
            "attention": attention,
            "share_prompts": share_prompts,
            "template": form.name,
            "max_length": max_length,
            "tokens": form.fingerprint,
            "pairs": data.pairs.fingerprint,
            "validation": None if checked is None else checked.pairs.fingerprint,
        }
        run = fingerprint("run", **parts)
        warned: list[str] = []
        if warmup_steps >= steps:
            highest = learning_rate * steps / (warmup_steps + 1)
            warned.append(
                f"warmup_steps={warmup_steps}: a run of {steps} steps comes to a learning rate of "
                f"{highest:.3g} at most, not {learning_rate:g}; use {steps - 1} or less"
            )
        checkpoint = None
        if resume or must_resume:
            checkpoint, why_anew = checkpoint_to_go_on(checkpoints, run, must=must_resume)
            warned += [why_anew] if why_anew else []
        proven = fingerprint(
            "run",
            # As text: a config may hold an infinite gamma.
            **{f"config.{k}": json.dumps(v, sort_keys=True) for k, v in (resolved or {}).items()},
            **parts,
            accelerator=accelerator,
            devices=devices,
            nodes=nodes,
            strategy=strategy,
            deterministic=deterministic,
            frozen_cache_bytes=frozen_cache_bytes,
            gradient_checkpointing=gradient_checkpointing,
            compile_model=compile_model,
            checkpoint_steps=checkpoint_steps,
            sharded_checkpoints=sharded_checkpoints,
            save=save,
            resumed=checkpoint is not None,
        )
        callbacks: list[pl.Callback] = [SameRun(proven)]
        if checkpoint_steps:
            made_of = {
                "base": str(model),
                "template": template,
                "max_length": max_length,
                "seed": seed,
                "peft": asdict(peft),
                "untrained": untrained,
                "run": run.to_plain(),
                "config": None if resolved is None else dict(resolved),
            }
            callbacks.append(KeepLast(checkpoints, checkpoint_steps, made_of))
            if never := why_never(checkpoint_steps, steps_an_epoch, epochs):
                warned.append(never)
        if progress is not None:
            callbacks.append(StepProgress(steps, progress))
        callbacks.append(Warnings(warned))
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy_of(
                strategy,
                accelerator=accelerator,
                devices=devices,
                nodes=nodes,
                sharded_checkpoints=sharded_checkpoints,
            ),
            max_epochs=epochs,
            accumulate_grad_batches=micro_batches(batch_pairs, micro_batch_pairs, devices * nodes),
            default_root_dir=directory,
            deterministic="warn" if deterministic and accelerator != "cpu" else None,
            plugins=[environment],
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        reward = RewardModel(classifier, form, str(model), frozen=frozen)
        if begun is not None and strategy in ("auto", "ddp"):
            begun(replace(reward, store=store))
        trainer.fit(
            module,
            datamodule=loaders,
            ckpt_path=checkpoint,
            weights_only=True,
        )
        saved = _save(trainer, reward, directory / "model") if save else None
        remove_checkpoints(checkpoints)
    return TrainedModel(
        path=saved,
        model=reward,
        history=module.history,
        metrics={
            **data.counts,
            "frozen_computed": frozen.computed if frozen else 0,
            "frozen_reused": frozen.reused if frozen else 0,
            "frozen_left_out": frozen.left_out if frozen else 0,
            "seconds": module.seconds,
            "tokens_per_second": module.tokens_seen / max(module.seconds, 1e-9),
        },
        base_fingerprint=weights,
        warnings=warned,
    )


def _save(trainer: pl.Trainer, reward: RewardModel, folder: Path) -> Path:
    """Write the model from rank 0; gathering a sharded one takes every rank."""
    sharded = trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy)
    weights = whole_weights(reward.classifier.model) if sharded else None
    if trainer.is_global_zero:
        reward.save(folder, weights)
    trainer.strategy.barrier()
    return folder


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning_fabric")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
