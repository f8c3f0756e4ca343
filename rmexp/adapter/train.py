"""Train a Rule Adapter on pairs whose critical rules are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rmexp.adapter.model import RuleAdapter
from rmexp.adapter.settings import AdapterSettings, prompt_digest
from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import Precision
from rmexp.backbone.sources import resolve_model
from rmexp.backbone.threads import torch_threads
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.preferences import Pair
from rmexp.rating.rater import Embedder
from rmexp.rating.relevance import prompt_relevance
from rmexp.rules import RuleSet

Report = Callable[[int, dict[str, float]], None]

_TOKEN_BUDGET = 2048
_HOLD = 1e-4


@dataclass(frozen=True)
class AdapterTraining:
    """How an adapter is trained.

    Attributes:
        learning_rate: the highest rate of AdamW; linear warm-up, then linear decay to zero.
        epochs: passes over the pairs.
        batch_pairs: pairs in an optimiser step.
        warmup_steps: steps of warm-up.
        max_length: most tokens of a trio.
        precision: 32, or bf16 for products in bfloat16.
        device: cpu, cuda, mps.
        threads: CPU threads; None leaves the count as it is.
        seed: of the head and the order of pairs.
    """

    learning_rate: float = 1e-4
    epochs: int = 3
    batch_pairs: int = 8
    warmup_steps: int = 10
    max_length: int = 512
    precision: Precision = "32"
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0


def train_rule_adapter(
    pairs: Sequence[Pair],
    critical: NDArray[np.int64],
    rules: RuleSet,
    options: AdapterTraining,
    *,
    model: str,
    gamma: float,
    rater: Fingerprint,
    embedder: Embedder,
    cache_dir: Path,
    report: Report | None = None,
) -> RuleAdapter:
    """Full fine-tune by binary cross-entropy on ``z_i = 1[i in S]`` (method, section 7).

    On a CPU the same seed and thread count give bit-equal weights.

    Args:
        pairs: the training pairs; preferences are not looked at.
        critical: S, rule indices ``[pairs, r]`` from full ratings.
        rules: the rule set of the indices.
        options: of the training.
        model: the backbone, by the names that a reward model takes.
        gamma: that S was chosen with, for the record.
        rater: whose ratings S was chosen by, for the record.
        embedder: sentence encoder; a rule's relevance to the prompt helps to choose.
        cache_dir: where named models are converted to.
        report: called after each epoch with (epoch, {"loss"}).

    Raises:
        UserError: no pairs, an option that does not fit the model, or a loss that is not finite.
    """
    if not len(pairs):
        raise UserError("data: no pair to train an adapter on")
    targets = np.zeros((len(pairs), len(rules)), np.float32)
    np.put_along_axis(targets, critical, 1.0, axis=1)
    with torch_threads(options.threads):
        classifier = load_sequence_classifier(
            resolve_model(model, cache_dir),
            precision=options.precision,
            seed=options.seed,
            labels=len(rules),
        )
        longest = classifier.longest
        if longest is not None and options.max_length > longest:
            raise UserError(
                f"max_length: {options.max_length}, but {model} has positions for {longest} tokens"
            )
        classifier.model.to(options.device).train()
        relevance = prompt_relevance([pair.prompt for pair in pairs], rules.rules, embedder)
        offsets, weight = fit_known(targets, relevance)
        settings = AdapterSettings(
            base=model,
            max_length=options.max_length,
            r=critical.shape[1],
            gamma=gamma,
            rules_name=rules.name,
            rule_ids=tuple(rules.ids),
            rules=rules.fingerprint,
            rater=str(rater),
            frequency=tuple(targets.mean(axis=0, dtype=np.float64).tolist()),
            offsets=tuple(offsets.tolist()),
            relevance_weight=weight,
            encoder=embedder.fingerprint,
            prompts=tuple(sorted({prompt_digest(pair) for pair in pairs})),
        )
        adapter = RuleAdapter(classifier, settings, rules, embedder)
        _fit(adapter, pairs, torch.from_numpy(targets).to(options.device), options, report)
        classifier.model.eval()
    return adapter


def fit_known(
    targets: NDArray[np.float32], relevance: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """What frequency and relevance alone tell: logistic regression of z on rule and relevance.

    A small penalty holds the offsets near the rules' log-odds, so that a rule that is never
    critical stays finite.

    Args:
        targets: z, ``[pairs, rules]``.
        relevance: ``[pairs, rules]`` in [0, 1].

    Returns:
        Offsets float64 ``[rules]``, and the weight of relevance.
    """
    z, rho = torch.from_numpy(targets).double(), torch.from_numpy(relevance).double()
    odds = torch.logit(z.mean(dim=0), eps=1e-3)
    offsets = odds.clone().requires_grad_()
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([offsets, weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(offsets + weight * rho, z)
        # Relevance moves all offsets alike; the rules' differences from their log-odds are held.
        moved = offsets - odds
        value = value + _HOLD * ((moved - moved.mean()).square().mean() + weight.square())
        value.backward()
        return value

    optimizer.step(loss)
    return offsets.detach().numpy(), float(weight.detach())


def _fit(
    adapter: RuleAdapter,
    pairs: Sequence[Pair],
    targets: torch.Tensor,
    options: AdapterTraining,
    report: Report | None,
) -> None:
    tokens, known = adapter.tokens(pairs), torch.from_numpy(adapter.known(pairs))
    trained = [p for p in adapter.classifier.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0)
    steps = options.epochs * -(-len(pairs) // options.batch_pairs)
    warm = options.warmup_steps

    def rate(step: int) -> float:
        return min((step + 1) / (warm + 1), max(0.0, (steps - step) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for epoch in range(1, options.epochs + 1):
        order = np.random.default_rng([options.seed, epoch]).permutation(len(pairs))
        total = 0.0
        for start in range(0, len(order), options.batch_pairs):
            batch = order[start : start + options.batch_pairs]
            logits = adapter.run([tokens[i] for i in batch], known[batch], _TOKEN_BUDGET)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[batch])
            if not torch.isfinite(loss):
                raise UserError(
                    f"learning_rate: the loss is NaN or infinite at pair {pairs[batch[0]].id} "
                    f"(epoch {epoch}); use a smaller one"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        if report is not None:
            report(epoch, {"loss": total / len(order)})
