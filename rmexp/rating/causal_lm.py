"""The causal-LM rater: a local instruction model is asked each rule, and its answer's odds read.

All questions about one prompt form a tree: prompt, its responses, and behind each response the
rules. The prompt and the responses are computed once and kept as keys and values; the rules follow
as many short branches in one row, each of which sees only its own response, with positions that
restart behind it. So 100 rules cost about 100 sentences, not 100 times prompt and response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from rmexp.backbone.beginning import cache_argument
from rmexp.backbone.load import hub_arguments, load_tokenizer
from rmexp.backbone.quiet import quiet_transformers
from rmexp.backbone.sources import weights_fingerprint
from rmexp.backbone.text import common_prefix
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.rating.rater import Item, RatedBatch
from rmexp.rating.yes_no import Question, YesNoTemplate, psi_and_relevance
from rmexp.rules import Rule

# Attention over a row of branches costs the square of its tokens, so on a CPU rows stay short.
_BUDGET = {"cpu": 256, "cuda": 8192}
_PROMPT = -1


@dataclass
class CutReport:
    """How many texts were too long for the rater.

    Attributes:
        responses: asked about so far.
        cut: those of them that were cut, themselves or their prompt.
        tokens: cut from them.
        max_length: what they were cut to.
    """

    max_length: int
    responses: int = 0
    cut: int = 0
    tokens: int = 0

    def count(self, question: Question) -> None:
        """Count a question."""
        self.responses += 1
        self.cut += question.cut > 0
        self.tokens += question.cut

    def __str__(self) -> str:
        asked = f"{self.responses} responses asked about"
        if not self.cut:
            return f"{asked}, none cut"
        return (
            f"{asked}, {self.cut} cut by {self.tokens} tokens, themselves or their prompt: "
            f"rater.max_length={self.max_length}"
        )


def causal_lm_fingerprint(
    path: Path | str,
    *,
    dtype: str = "float32",
    max_length: int = 2048,
    cache_dir: Path | None = None,
) -> Fingerprint:
    """Identity of the :class:`CausalLMRater` that these make, without loading its weights.

    Raises:
        UserError: the model is not there or cannot answer the question.
    """
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(**hub_arguments(path)).get_text_config()
            tokenizer = load_tokenizer(path, int(config.vocab_size))
    except (OSError, ValueError) as error:
        raise _cannot_load(path, error) from None
    return _identity(path, YesNoTemplate(tokenizer, max_length), dtype, cache_dir)


def _identity(
    path: Path | str, template: YesNoTemplate, dtype: str, cache_dir: Path | None
) -> Fingerprint:
    weights = weights_fingerprint(path, cache_dir=cache_dir)
    return fingerprint("causal_lm", weights=weights, question=template.fingerprint, dtype=dtype)


def _cannot_load(path: Path | str, error: Exception) -> UserError:
    return UserError(f"rater.model: {path} cannot be loaded: {str(error).splitlines()[0]}")


class CausalLMRater:
    """P(Yes), P(No) and P(Irrelevant) of a local instruction model.

    An answer is told by its first token. ``psi`` and relevance come from the three probabilities
    renormalised (method, sections 1 and 3).

    Args:
        path: a folder or hub name of a causal model with a chat template.
        dtype: of weights and products.
        max_length: tokens of instructions, prompt and response; longer prompts lose their
            beginning, responses their end. :attr:`report` counts them.
        token_budget: branch tokens in one forward pass; None suits the device.
        device: None takes a GPU where there is one.
        cache_dir: where the weights' hash is remembered; None to hash them now.

    Raises:
        UserError: the model cannot be loaded or cannot answer the question.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        max_length: int = 2048,
        token_budget: int | None = None,
        device: str | None = None,
        cache_dir: Path | None = None,
    ):
        if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
            raise UserError(
                f"rater.model: {path} has no .safetensors file, and weights are read from no "
                "other: save the model with save_pretrained"
            )
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            with quiet_transformers():
                self._model = (
                    AutoModelForCausalLM.from_pretrained(
                        **hub_arguments(path),
                        dtype=getattr(torch, dtype),
                        attn_implementation="sdpa",
                        use_safetensors=True,  # what the fingerprint is made of
                    )
                    .eval()
                    .to(self._device)
                )
                config = self._model.config.get_text_config()
                tokenizer = load_tokenizer(path, int(config.vocab_size))
        except (OSError, ValueError) as error:
            raise _cannot_load(path, error) from None
        self._template = YesNoTemplate(tokenizer, max_length)
        self._max_length = max_length
        self.report = CutReport(max_length)
        window = getattr(config, "sliding_window", None)
        if window and max_length > window:
            raise UserError(
                f"rater.max_length: {max_length} tokens, but this model attends to {window} at a "
                f"time; use {window} or less"
            )
        self._budget = token_budget or _BUDGET.get(self._device.type, _BUDGET["cpu"])
        self.fingerprint: Fingerprint = _identity(path, self._template, dtype, cache_dir)

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Rate items by rules; see :class:`rmexp.rating.rater.Rater`."""
        if wanted is None:
            wanted = np.ones((len(items), len(rules)), np.bool_)
        logits = np.full((len(items), len(rules), 3), np.nan, np.float32)
        branches = [self._template.branch(rule) for rule in rules]
        by_prompt: dict[tuple[int, ...], list[tuple[int, Question]]] = {}
        for place, item in enumerate(items):
            if wanted[place].any():
                question = self._template.question(item.prompt, item.response)
                self.report.count(question)
                by_prompt.setdefault(question.prompt, []).append((place, question))
        with torch.inference_mode():
            for prompt, questions in by_prompt.items():
                for few in self._few(questions):
                    self._rate_prompt(prompt, few, branches, wanted, logits)
        rated = ~np.isnan(logits[..., 0])
        psi = np.full(rated.shape, np.nan, np.float32)
        relevance = psi.copy()
        if rated.any():
            psi[rated], relevance[rated] = psi_and_relevance(logits[rated])
        return RatedBatch(psi, relevance)

    def _few(self, questions: list[tuple[int, Question]]) -> Iterator[list[tuple[int, Question]]]:
        """Responses of one prompt, in parts of bounded length; any two go together."""
        few: list[tuple[int, Question]] = []
        tokens = 0
        for place, question in questions:
            if few and tokens + len(question.response) > 2 * self._max_length:
                yield few
                few, tokens = [], 0
            few.append((place, question))
            tokens += len(question.response)
        if few:
            yield few

    def _rate_prompt(
        self,
        prompt: tuple[int, ...],
        questions: list[tuple[int, Question]],
        branches: list[tuple[int, ...]],
        wanted: NDArray[np.bool_],
        logits: NDArray[np.float32],
    ) -> None:
        asked = np.flatnonzero(wanted[[place for place, _ in questions]].any(axis=0))
        # What all rules begin with ("Rule: The response") belongs to the response's own tokens.
        shared = common_prefix([branches[j] for j in asked])
        opening = branches[asked[0]][:shared]
        tree = _Tree(self._model, self._device)
        tree.grow([_Node(prompt, 0, _PROMPT, _PROMPT)])
        tree.grow(
            [
                _Node(question.response + opening, len(prompt), _PROMPT, i)
                for i, (_, question) in enumerate(questions)
            ]
        )
        leaves = [
            (i, j) for i, (place, _) in enumerate(questions) for j in asked if wanted[place, j]
        ]
        row: list[tuple[int, int]] = []
        tokens = 0
        for i, j in leaves:
            length = len(branches[j]) - shared
            if row and tokens + length > self._budget:
                self._answer(tree, row, prompt, questions, branches, shared, logits)
                row, tokens = [], 0
            row.append((i, int(j)))
            tokens += length
        self._answer(tree, row, prompt, questions, branches, shared, logits)

    def _answer(
        self,
        tree: _Tree,
        row: list[tuple[int, int]],
        prompt: tuple[int, ...],
        questions: list[tuple[int, Question]],
        branches: list[tuple[int, ...]],
        shared: int,
        logits: NDArray[np.float32],
    ) -> None:
        nodes = [
            _Node(
                branches[j][shared:],
                len(prompt) + len(questions[i][1].response) + shared,
                i,
                len(questions) + n,
            )
            for n, (i, j) in enumerate(row)
        ]
        answers = tree.read(nodes)[:, self._template.answer_ids]
        for (i, j), answer in zip(row, answers, strict=True):
            if not np.isfinite(answer).all():
                raise UserError(
                    "rater.model: it gave an answer that is not a number; use rater.dtype=float32"
                )
            logits[questions[i][0], j] = answer


class _Node:
    """Tokens of one tree node: where they start, whom they follow, and their own number."""

    def __init__(self, ids: tuple[int, ...], position: int, parent: int, name: int):
        self.ids, self.position, self.parent, self.name = ids, position, parent, name


class _Tree:
    """Keys and values of a prompt and its responses; branches are read and forgotten again."""

    def __init__(self, model: Any, device: torch.device):
        self._model, self._device = model, device
        self._cache = DynamicCache()
        self._cache_argument = cache_argument(model)
        self._names: NDArray[np.int64] = np.zeros(0, np.int64)

    def grow(self, nodes: list[_Node]) -> None:
        """Add nodes for good."""
        # The last token's logits are not looked at; one position is the fewest that can be asked.
        self._forward(nodes, torch.zeros(1, dtype=torch.long, device=self._device))
        self._names = np.concatenate([self._names, _repeat([n.name for n in nodes], nodes)])

    def read(self, nodes: list[_Node]) -> NDArray[np.float32]:
        """Logits after the last token of each node: float32 ``[nodes, vocabulary]``."""
        ends = np.cumsum([len(node.ids) for node in nodes]) - 1
        logits = self._forward(nodes, torch.from_numpy(ends).to(self._device))
        self._cache.crop(-sum(len(node.ids) for node in nodes))
        return logits[0].float().cpu().numpy()

    def _forward(self, nodes: list[_Node], keep: torch.Tensor) -> torch.Tensor:
        ids = np.concatenate([node.ids for node in nodes])
        inside = np.concatenate([np.arange(len(node.ids)) for node in nodes])
        positions = inside + _repeat([node.position for node in nodes], nodes)
        names = _repeat([node.name for node in nodes], nodes)
        parents = _repeat([node.parent for node in nodes], nodes)
        before = (self._names == _PROMPT) | (self._names == parents[:, None])
        own = (names == names[:, None]) & (inside <= inside[:, None])
        mask = np.concatenate([before, own], axis=1)[None, None]
        output = self._model(
            input_ids=torch.from_numpy(ids)[None].to(self._device),
            position_ids=torch.from_numpy(positions)[None].to(self._device),
            attention_mask=torch.from_numpy(mask).to(self._device),
            **{self._cache_argument: self._cache},
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: torch.Tensor = output.logits
        return logits


def _repeat(values: list[int], nodes: list[_Node]) -> NDArray[np.int64]:
    return np.repeat(np.array(values, np.int64), [len(node.ids) for node in nodes])
