"""A model that gives one number a sequence, and the ways to run it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmexp.backbone.batching import LateMasks, Rows, length_groups, pad_rows
from rmexp.backbone.beginning import Beginning, common_beginning, run_beginning
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.packed import packed_rows
from rmexp.backbone.packing import MaskLayout, shared_rows
from rmexp.backbone.rope import fixed_length, forget_lengths
from rmexp.backbone.text import Tokens
from rmexp.errors import UserError


@dataclass
class Classifier:
    """A sequence classifier of one logit or several, with its tokenizer.

    Attributes:
        model: the transformers model, or the peft model around it.
        tokenizer: its tokenizer, with a pad token.
        causal: whether sequences are read at their last token (else as the encoder pools).
        peft: what of it is trained.
        autocast: whether products are in bfloat16, whatever the weights are kept in.
        sharded: whether the weights are spread over ranks.
        compiled: whether its layers are compiled.
        packs: whether sequences that share prompts are packed into long rows, for FlexAttention.
    """

    model: Any
    tokenizer: Any
    causal: bool
    peft: PeftOptions
    autocast: bool = False
    sharded: bool = False
    compiled: bool = False
    packs: bool = False
    _given: threading.local = field(default_factory=threading.local, repr=False)

    @property
    def inner(self) -> Any:
        """The transformers model inside."""
        return self.model.get_base_model() if self.peft.adapts else self.model

    @property
    def trunk(self) -> Any:
        """All but the head."""
        return getattr(self.inner, self.inner.base_model_prefix)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def pad_id(self) -> int:
        """The id that fills rows."""
        return int(self.tokenizer.pad_token_id)

    @property
    def longest(self) -> int | None:
        """The most tokens that the positions allow, None where there is no limit."""
        return position_limit(self.inner.config)

    @cached_property
    def _fixed_length(self) -> int | None:
        return fixed_length(self.inner.config)

    def runs_alone(self, length: int) -> bool:
        """Whether a text has its own score only alone, and after no other's frequencies."""
        return self._fixed_length is not None and length >= self._fixed_length

    @property
    def frozen_layers(self) -> int:
        """How many of the first layers are never trained, nor anything before them."""
        if self.peft.kind == "head_only":
            return len(layers_of(self.inner))
        if self.peft.kind == "last_k":
            return len(layers_of(self.inner)) - self.peft.last_k
        return 0

    @cached_property
    def layout(self) -> MaskLayout | None:
        """How prompts can be shared, None where this model gives other scores that way."""
        if not self.causal:
            return None
        layout = MaskLayout.of(self.inner.config)
        return layout if layout is not None and self._shares_exactly(layout, 0) else None

    @cached_property
    def packs_exactly(self) -> bool:
        """Whether packed rows give the scores of plain ones."""
        if self.layout is None:
            return False
        return self._shares_exactly(self.layout, 0, packed=True)

    @cached_property
    def _begins_exactly(self) -> bool:
        """Whether rows that follow a beginning give the scores of whole ones."""
        return self.layout is not None and self._shares_exactly(self.layout, 4)

    @cached_property
    def _attends_ahead(self) -> bool:
        """Whether tokens see what stands behind them: some decoders were made to (Gemma 3).

        Tried on two short sequences that differ in their last token alone.
        """
        texts = [Tokens(np.array([1, 2, last], np.int32), 3, False, 0, 0) for last in (3, 4)]
        rows = pad_rows(texts, np.arange(2), self.pad_id, causal=True)
        before_last = replace(rows, column=rows.column - 1)
        with self.tried():
            first, second = self._ends(before_last.to(self.device)).float()
        return bool((first - second).norm() > (0.02 if self.autocast else 1e-4) * first.norm())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout, which would also move the random state; as before at the end."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Evaluating, without gradients, in the precision of :meth:`scores`."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
        with self.evaluating(), torch.no_grad(), autocast:
            yield

    def rows(
        self,
        tokens: Sequence[Tokens],
        families: Sequence[Sequence[int]] | None,
        token_budget: int,
        states: Sequence[torch.Tensor] | None = None,
        share_beginning: bool = False,
    ) -> list[Rows]:
        """The rectangles that some sequences are run as.

        Args:
            tokens: the sequences.
            families: which of them share a prompt, each sequence once; None to share nothing.
            token_budget: tokens in one rectangle.
            states: the sequences' frozen states ``[tokens, width]``; of one token where only the
                head is trained.
            share_beginning: run what most families begin with once, now, with today's weights;
                without gradients.
        """
        if states is not None and len(states[0]) == 1:
            # Only what is read at one place is left to compute: a row of that one token.
            ends = [replace(t, ids=t.ids[:1], second_segment=1) for t in tokens]
            row = pad_rows(ends, np.arange(len(ends)), self.pad_id, self.causal, states)
            return [replace(row, tokens=sum(len(t.ids) for t in tokens))]
        long = [i for i, t in enumerate(tokens) if self.runs_alone(len(t.ids))]
        alone = [pad_rows(tokens, np.array([i]), self.pad_id, self.causal, states) for i in long]
        shared = families is not None and any(len(f) > 1 for f in families)
        if families is not None and shared and self.layout is not None:
            if long:
                apart = set(long)
                left = [[i for i in family if i not in apart] for family in families]
                families = [family for family in left if family]
            how: dict[str, Any] = {"token_budget": token_budget, "pad_id": self.pad_id}
            how |= {"layout": self.layout, "states": states}
            if self.packs:
                return alone + packed_rows(tokens, families, **how)
            beginning = self._beginning(tokens, families) if share_beginning else None
            return alone + shared_rows(tokens, families, beginning=beginning, **how)
        needs_no_mask = self.causal and not self._attends_ahead
        others = np.setdiff1d(np.arange(len(tokens)), long)
        groups = length_groups([len(tokens[i].ids) for i in others], token_budget)
        return alone + [
            pad_rows(tokens, others[g], self.pad_id, needs_no_mask, states) for g in groups
        ]

    def scores(self, rows: Rows) -> torch.Tensor:
        """Scores of the sequences in the rows, in the rows' own order.

        float32 ``[sequences]``, or ``[sequences, labels]`` where the head has several logits.
        """
        if self.runs_alone(rows.input_ids.shape[1]):
            forget_lengths(self.trunk)
        with (
            torch.autocast(rows.input_ids.device.type, torch.bfloat16, enabled=self.autocast),
            self._frozen_layers_give(rows.hidden),
        ):
            if self.causal:
                return self.inner.score(self._ends(rows)).squeeze(-1).float()
            inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
            if rows.token_type_ids is not None:
                inputs["token_type_ids"] = rows.token_type_ids
            return self.inner(**inputs).logits.squeeze(-1).float()

    def _ends(self, rows: Rows) -> torch.Tensor:
        """Hidden states at the sequences' last tokens: ``[sequences, width]``."""
        given: dict[str, Any] = {"use_cache": False}
        if rows.beginning is not None:
            given = rows.beginning.as_arguments(self.trunk, len(rows.input_ids))
        mask = rows.attention_mask
        hidden = self.trunk(
            input_ids=rows.input_ids,
            attention_mask=mask.masks() if isinstance(mask, LateMasks) else mask,
            position_ids=rows.position_ids,
            **given,
        ).last_hidden_state
        return hidden[rows.row, rows.column]

    def _beginning(
        self, tokens: Sequence[Tokens], families: Sequence[Sequence[int]]
    ) -> Beginning | None:
        ids = common_beginning(tokens, families)
        if ids is None or not self._begins_exactly:
            return None
        return self._run_beginning(ids)

    def _run_beginning(self, ids: NDArray[np.int32]) -> Beginning:
        device = self.device
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            return run_beginning(self.trunk, ids)

    @contextmanager
    def _frozen_layers_give(self, hidden: torch.Tensor | None) -> Iterator[None]:
        """Skip the frozen layers: the last of them gives what they gave before.

        The trunk still prepares masks and positions itself, whatever its architecture. What is
        given holds for the calling thread.
        """
        if hidden is None:
            yield
            return
        self._let_frozen_layers_be_skipped()
        self._given.hidden = hidden
        try:
            yield
        finally:
            self._given.hidden = None

    def _let_frozen_layers_be_skipped(self) -> None:
        with _INSTALL:
            frozen = list(layers_of(self.inner)[: self.frozen_layers])
            for layer in frozen:
                if not hasattr(layer.forward, _SKIPS):
                    layer.forward = self._skippable(layer.forward, last=layer is frozen[-1])

    def _skippable(self, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def run(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            given = getattr(self._given, "hidden", None)
            if given is None:
                return forward(hidden_states, *args, **kwargs)
            return given if last else hidden_states

        setattr(run, _SKIPS, True)
        return run

    def _shares_exactly(self, layout: MaskLayout, begun: int, packed: bool = False) -> bool:
        """Try sharing on four short sequences: what a config does not tell, the scores do.

        The first ``begun`` tokens, which all share, are run apart; or the rows are packed.
        """
        generator = np.random.default_rng(0)
        size = int(self.inner.config.get_text_config().vocab_size)
        begin, *tails = (generator.integers(0, size, n, dtype=np.int32) for n in (6, 3, 5, 1, 4))
        tokens = [
            Tokens(np.concatenate([begin, tail]), len(begin) + len(tail), False, 0, 0)
            for tail in tails
        ]
        device = self.device
        plain = [pad_rows(tokens, np.arange(len(tokens)), self.pad_id, True)]

        def ends(all_rows: list[Rows]) -> torch.Tensor:
            order = np.concatenate([r.sequence for r in all_rows])
            found = torch.cat([self._ends(r.to(device)) for r in all_rows]).float()
            return found[torch.from_numpy(np.argsort(order)).to(device)]

        try:
            with self.tried():
                how: dict[str, Any] = {"token_budget": 64, "pad_id": self.pad_id, "layout": layout}
                if begun:
                    how["beginning"] = self._run_beginning(begin[:begun])
                make = packed_rows if packed else shared_rows
                shared = make(tokens, [[0, 1], [2, 3]], **how)
                expected, found = ends(plain), ends(shared)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False
        error = (expected - found).norm(dim=-1) / expected.norm(dim=-1)
        return bool(error.max() < (0.05 if self.autocast else 1e-3))


_INSTALL = threading.Lock()
_SKIPS = "_rmexp_skips"


def position_limit(config: Any) -> int | None:
    """The longest sequence that a model's position table or training allows."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if limit is not None and text.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= 2  # their positions begin behind the pad id
    return limit


def head_names(model: Any) -> list[str]:
    """The parts of a sequence classifier that stand behind its trunk, such as ``score``."""
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def layers_of(model: Any) -> nn.ModuleList:
    """The trunk's layers, in order."""
    count = model.config.get_text_config().num_hidden_layers
    trunk = getattr(model, model.base_model_prefix)
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(model).__name__}: its layers were not found, use peft.kind=full or lora"
    )
