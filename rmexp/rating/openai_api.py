"""The openai rater: any OpenAI-compatible endpoint, asked through the official client.

One rule a request: the odds of Yes, No and Irrelevant are read from the log probabilities of the
first token, or, where the endpoint ignores the wish for them, the answer's word counts as certain.
Several rules a request, or ``probabilities=False``, give words only.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences import prompt_from_text
from rmexp.rating.api_answers import (
    answer_weights,
    is_malformed,
    listed_answers,
    retry_after,
    word_weights,
)
from rmexp.rating.api_report import Estimate, Price, Report
from rmexp.rating.endpoint import (
    KEY_VARIABLE,
    OPENAI,
    check_key,
    endpoint_address,
    refuse_hopeless,
    refused_key,
    said,
)
from rmexp.rating.rater import Item, RatedBatch, RaterStopped
from rmexp.rating.yes_no import list_text, psi_and_relevance, question_text
from rmexp.rules import Rule

_CHARACTERS_PER_TOKEN = 3.5  # for estimates alone; English text has 4 to 4.5
_TOKENS_PER_MESSAGE = 8
_ANSWER_TOKENS = 4
_TOKENS_PER_LISTED_ANSWER = 8
_LONGEST_WAIT = 120.0
_UNREADABLE_ATTEMPTS = 2
_MOST_IN_A_ROW = 20  # questions given up before the endpoint itself is doubted
_SPENT = "spending limit"


@dataclass(frozen=True)
class _Ask:
    row: int
    columns: tuple[int, ...]
    text: str
    unreadable: int = 0  # times that its answer could not be read

    @property
    def input_tokens(self) -> int:
        return math.ceil(len(self.text) / _CHARACTERS_PER_TOKEN) + _TOKENS_PER_MESSAGE

    @property
    def output_tokens(self) -> int:
        if len(self.columns) == 1:
            return _ANSWER_TOKENS
        return _TOKENS_PER_LISTED_ANSWER * len(self.columns)


_HARMLESS = _Ask(0, (0,), question_text(prompt_from_text("Hi"), "Hello!", Rule("", "", "Greet.")))


class OpenAIRater:
    """Asks an OpenAI-compatible endpoint whether responses follow rules.

    Requests that fail for a passing reason (429, 5xx, time-out, broken connection, a body that is
    no answer) are sent again with growing, jittered pauses, at least as long as ``Retry-After``
    says; a 429 holds back all requests. What cannot be rated in the end is NaN, and counted by
    reason in :attr:`report`; where that is so of many questions in a row, and of a harmless one
    too, the rater stops. The key is read from ``OPENAI_API_KEY``.

    Args:
        model: name at the endpoint.
        base_url: None for the address in ``OPENAI_BASE_URL``, else OpenAI's own; a local server
            needs no key.
        concurrency: requests in flight.
        probabilities: ask for log probabilities; False for endpoints that refuse the question.
        rules_per_request: 1, or more for cheaper answers without probabilities; the rules of one
            request may then influence each other.
        max_cost: no request is sent that could bring the cost above this many dollars.
        price: needed for ``max_cost``.
        timeout: seconds for one request.
        attempts: requests for one question before it is given up.
        first_pause: seconds before the first retry; doubled for each further one.

    Raises:
        UserError: no client installed, or ``max_cost`` without a price.
    """

    # Responses committed to the store at a time: what a kill may lose has been paid for.
    batch_items = 8

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        concurrency: int = 16,
        probabilities: bool = True,
        rules_per_request: int = 1,
        max_cost: float | None = None,
        price: Price | None = None,
        timeout: float = 60.0,
        attempts: int = 8,
        first_pause: float = 1.0,
    ):
        if max_cost is not None and price is None:
            raise UserError("rater.max_cost: a spending limit needs rater.price to count with")
        try:
            import openai
        except ImportError as error:
            raise UserError("rater=openai needs the openai client: pip install openai") from error
        self._openai = openai
        self._model, self._base_url, self._timeout = model, endpoint_address(base_url), timeout
        self._concurrency, self._attempts = concurrency, attempts
        self._rules_per_request, self._first_pause = rules_per_request, first_pause
        self._probabilities = probabilities and rules_per_request == 1
        self._max_cost, self._price = max_cost, price
        self._reserved = 0.0
        self._resume_at = 0.0
        self._answered, self._in_a_row = False, 0
        self.report = Report()
        self.fingerprint: Fingerprint = fingerprint(
            "openai",
            model=model,
            base_url=self._base_url,
            rules_per_request=rules_per_request,
            probabilities=self._probabilities,
            question=question_text((), "", Rule("", "", "")) + list_text((), "", ()),
        )

    def estimate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> Estimate:
        """What :meth:`rate` would send; nothing is sent."""
        asks = self._asks(items, rules, wanted)
        input_tokens = sum(ask.input_tokens for ask in asks)
        output_tokens = sum(ask.output_tokens for ask in asks)
        cost = None if self._price is None else self._price.of(input_tokens, output_tokens)
        ratings = sum(len(ask.columns) for ask in asks)
        return Estimate(len(asks), ratings, input_tokens, output_tokens, cost)

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Rate items by rules; see :class:`rmexp.rating.rater.Rater`.

        Raises:
            UserError: there is no key.
            RaterStopped: the endpoint knows neither the key nor the model, refuses to give log
                probabilities, has no quota left, or answers no question any more.
        """
        check_key(self._base_url)
        weights = np.full((len(items), len(rules), 3), np.nan)
        asks = deque(self._asks(items, rules, wanted))
        stopped: UserError | None = None
        try:
            _run(self._ask_all(asks, items, rules, weights))
        except UserError as error:
            stopped = error
        rated = _batch(weights)
        if stopped is not None:
            raise RaterStopped(str(stopped), rated) from stopped
        return rated

    def _asks(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None,
    ) -> list[_Ask]:
        asks = []
        for row, item in enumerate(items):
            columns = range(len(rules)) if wanted is None else np.flatnonzero(wanted[row]).tolist()
            for start in range(0, len(columns), self._rules_per_request):
                some = tuple(columns[start : start + self._rules_per_request])
                asks.append(self._ask(item, row, some, rules))
        return asks

    def _ask(
        self, item: Item, row: int, columns: tuple[int, ...], rules: Sequence[Rule], tried: int = 0
    ) -> _Ask:
        if self._rules_per_request == 1:
            text = question_text(item.prompt, item.response, rules[columns[0]])
        else:
            text = list_text(item.prompt, item.response, [rules[j] for j in columns])
        return _Ask(row, columns, text, tried)

    async def _ask_all(
        self,
        asks: deque[_Ask],
        items: Sequence[Item],
        rules: Sequence[Rule],
        weights: NDArray[np.float64],
    ) -> None:
        async def give_up(ask: _Ask, columns: tuple[int, ...], reason: str) -> None:
            self.report.give_up(items[ask.row], [rules[j].id for j in columns], reason)
            if reason != _SPENT:
                await self._doubt(client, reason)

        async def work() -> None:
            while asks:
                ask = asks.popleft()
                completion, reason = await self._request(client, ask)
                if completion is None:
                    await give_up(ask, ask.columns, reason)
                    continue
                unread = self._read(completion, ask, weights)
                if unread and ask.unreadable + 1 < _UNREADABLE_ATTEMPTS:
                    self.report.retries["unreadable answer"] += 1
                    asks.append(
                        self._ask(items[ask.row], ask.row, unread, rules, ask.unreadable + 1)
                    )
                elif unread:
                    await give_up(ask, unread, "neither Yes, No nor Irrelevant")

        async with self._openai.AsyncOpenAI(
            # Local servers ask for none, but the client insists on one.
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            base_url=self._base_url or OPENAI,
            timeout=self._timeout,
            max_retries=0,  # ours count, and hold back all requests together
        ) as client:
            workers = [asyncio.ensure_future(work()) for _ in range(self._concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _request(self, client: Any, ask: _Ask) -> tuple[Any, str]:
        """The completion, or None and the reason why it cannot be had."""
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                self.report.retries[reason] += 1
            await self._pause_for_all()
            cost = self._reserve(ask)
            if cost is None:
                reason = _SPENT
                break
            wait: float | None = None
            try:
                self.report.requests += 1
                completion = await client.chat.completions.create(**self._arguments(ask))
                if not is_malformed(completion):
                    self._book(completion, ask)
                    return completion, ""
                reason = "malformed body"
            except self._openai.APIStatusError as error:
                reason = f"status {error.status_code}"
                refuse_hopeless(error, self._model, self._probabilities)
                # Of the key, or, as moderating gateways have it, of this one text.
                forbidden = error.status_code == 403 and not self._answered
                if forbidden and await self._refusal(client):
                    raise refused_key(error) from error
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    break
                wait = retry_after(error.response.headers)
                if error.status_code == 429:
                    self._hold_back(wait if wait is not None else self._pause(attempt) / 2)
            except self._openai.APITimeoutError:
                reason = "time-out"
            except self._openai.APIConnectionError:
                reason = "connection"
            except (ValueError, self._openai.APIResponseValidationError):
                reason = "malformed body"  # cut short, or no JSON
            finally:
                self._reserved -= cost
            if wait is not None and wait > _LONGEST_WAIT:
                reason = f"{reason}, retry after {wait:.0f} s"
                break
            if attempt + 1 < self._attempts:
                await asyncio.sleep((wait or 0.0) + self._pause(attempt))
        return None, reason

    def _arguments(self, ask: _Ask) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": ask.text}],
            "temperature": 0,
            "max_tokens": ask.output_tokens,
        }
        if self._probabilities:
            arguments |= {"logprobs": True, "top_logprobs": 20}
        return arguments

    def _read(self, completion: Any, ask: _Ask, weights: NDArray[np.float64]) -> tuple[int, ...]:
        """Enter the answers; returns the columns that could not be read."""
        choice = completion.choices[0]
        if self._rules_per_request == 1:
            answer = answer_weights(choice) if self._probabilities else None
            if answer is None:
                answer = word_weights(choice.message.content or "")
                self.report.words += answer is not None
            answers = [answer]
        else:
            answers = listed_answers(choice.message.content or "", len(ask.columns))
        unread = []
        for column, answer in zip(ask.columns, answers, strict=True):
            if answer is None:
                unread.append(column)
            else:
                weights[ask.row, column] = answer
                self.report.ratings += 1
        return tuple(unread)

    def _reserve(self, ask: _Ask) -> float | None:
        """Dollars set aside for a request; None where the limit does not allow it."""
        if self._price is None:
            return 0.0
        cost = self._price.of(ask.input_tokens, ask.output_tokens)
        if self._max_cost is not None and self.report.cost + self._reserved + cost > self._max_cost:
            return None
        self._reserved += cost
        return cost

    def _book(self, completion: Any, ask: _Ask) -> None:
        self._answered, self._in_a_row = True, 0
        usage = getattr(completion, "usage", None)
        input_tokens = getattr(usage, "prompt_tokens", None) or ask.input_tokens
        output_tokens = getattr(usage, "completion_tokens", None) or ask.output_tokens
        self.report.input_tokens += input_tokens
        self.report.output_tokens += output_tokens
        if self._price is not None:
            self.report.cost += self._price.of(input_tokens, output_tokens)

    async def _doubt(self, client: Any, reason: str) -> None:
        """UserError where question after question is given up, and a harmless one too."""
        self._in_a_row += 1
        if self._in_a_row < _MOST_IN_A_ROW:
            return
        self._in_a_row = 0
        refusal = await self._refusal(client)
        if refusal:
            raise UserError(
                f"rater=openai: {_MOST_IN_A_ROW} questions in a row could not be rated (last: "
                f"{reason}), nor could a harmless one: {refusal}; what was rated is kept, so the "
                "same command goes on from here"
            )

    async def _refusal(self, client: Any) -> str:
        """What the endpoint says to a harmless question; empty where it answers."""
        cost = self._reserve(_HARMLESS)
        if cost is None:
            return ""
        try:
            self.report.requests += 1
            completion = await client.chat.completions.create(**self._arguments(_HARMLESS))
            if is_malformed(completion):
                return "a body that is no answer"
            self._book(completion, _HARMLESS)
        except (ValueError, self._openai.OpenAIError) as error:
            return said(error)
        finally:
            self._reserved -= cost
        return ""

    def _pause(self, attempt: int) -> float:
        """Full jitter over a doubling span."""
        return random.uniform(0, min(self._first_pause * 2**attempt, _LONGEST_WAIT))

    def _hold_back(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._resume_at = max(self._resume_at, now + min(seconds, _LONGEST_WAIT))

    async def _pause_for_all(self) -> None:
        while (left := self._resume_at - asyncio.get_running_loop().time()) > 0:
            # Not all at once when the pause is over.
            await asyncio.sleep(left + random.uniform(0, self._first_pause))


def _batch(weights: NDArray[np.float64]) -> RatedBatch:
    """Ratings from the weights of the three answers ``[items, rules, 3]``, NaN where none came."""
    psi = np.full(weights.shape[:2], np.nan, np.float32)
    relevance = psi.copy()
    rated = ~np.isnan(weights[..., 0])
    if rated.any():
        with np.errstate(divide="ignore"):
            psi[rated], relevance[rated] = psi_and_relevance(np.log(weights[rated]))
    return RatedBatch(psi, relevance)


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:  # a notebook runs a loop of its own
        pool.submit(asyncio.run, work).result()
