from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faulty_server import FaultyServer, Reply, completion
from rating_fakes import make_pairs, make_rules

from rmexp.errors import UserError
from rmexp.preferences import prompt_from_text
from rmexp.rating import RatingStore, rate_pairs
from rmexp.rating.api_answers import answer_weights, listed_answers, retry_after, word_weights
from rmexp.rating.endpoint import KEY_VARIABLE
from rmexp.rating.maintenance import store_stats
from rmexp.rating.openai_api import OpenAIRater, Price
from rmexp.rating.rater import Item

pytest.importorskip("openai", reason="the openai client is not installed")

RULES = make_rules(6).rules
ITEMS = [Item(prompt_from_text(f"p{i}"), f"r{i}") for i in range(5)]
LOGS = {"Yes": math.log(0.6), " No": math.log(0.2), "Ir": math.log(0.1), "I": math.log(0.1)}
PRICE = Price(input=1.0, output=2.0)


def rater(server: FaultyServer, **options: Any) -> OpenAIRater:
    return OpenAIRater(
        "made", base_url=server.url, **{"first_pause": 0.01, "timeout": 2.0, **options}
    )


def expect_all_rated(server: FaultyServer, one: OpenAIRater) -> None:
    rated = one.rate(ITEMS, RULES)
    np.testing.assert_allclose(rated.psi, 0.5, atol=1e-6)
    assert rated.relevance is not None
    np.testing.assert_allclose(rated.relevance, 0.8 / 0.9, atol=1e-6)
    assert one.report.ratings == 30
    assert not one.report.unrated
    assert one.report.requests == len(server.asked)
    # Every question was answered once: what was asked again had failed before.
    assert len(server.asked) - 30 == one.report.retries.total()
    assert len(set(server.asked)) == 30


def test_probabilities_are_read_from_log_probabilities() -> None:
    with FaultyServer(lambda text, nth: completion("Yes", LOGS)) as server:
        one = rater(server, concurrency=4)
        expect_all_rated(server, one)
        assert server.most_at_once <= 4
        assert server.bodies[0]["logprobs"] is True
        assert one.report.input_tokens == 3000
        assert one.report.output_tokens == 30


def first_fails(fault: Callable[[], Reply], times: int = 1) -> Callable[[str, int], Reply]:
    return lambda text, nth: fault() if nth < times else completion("Yes", LOGS)


@pytest.mark.parametrize(
    ("fault", "times", "reason"),
    [
        (lambda: Reply(429, {"error": {}}, {"retry-after": "0"}), 3, "status 429"),
        (lambda: Reply(500, {"error": {}}), 2, "status 500"),
        (lambda: Reply(503, raw="down", headers={"content-type": "text/plain"}), 1, "status 503"),
        (lambda: Reply(hang=True), 1, "time-out"),
        (lambda: Reply(body={"choices": [1] * 99}, cut=True), 1, "connection"),
        (lambda: Reply(raw='{"choices": [{"mess'), 1, "malformed body"),
        (lambda: Reply(raw="<html>", headers={"content-type": "text/html"}), 1, "malformed body"),
        (lambda: Reply(body={"id": "x"}), 1, "malformed body"),
        (lambda: completion("I'm sorry, I can't", {"I": -0.01}), 1, "unreadable answer"),
        (lambda: completion(""), 1, "unreadable answer"),
    ],
)
def test_passing_faults_lose_nothing_and_rate_nothing_twice(
    fault: Callable[[], Reply], times: int, reason: str
) -> None:
    with FaultyServer(first_fails(fault, times)) as server:
        one = rater(server, concurrency=30)
        expect_all_rated(server, one)
        assert one.report.retries == Counter({reason: 30 * times})
        assert reason in str(one.report)


def test_retry_after_is_honoured_by_all_requests() -> None:
    import time

    seen: list[float] = []

    def script(text: str, nth: int) -> Reply:
        seen.append(time.monotonic())
        return Reply(429, {}, {"retry-after": "0.4"}) if len(seen) == 1 else completion("Yes", LOGS)

    with FaultyServer(script) as server:
        rater(server, concurrency=1).rate(ITEMS[:1], RULES)
    assert seen[1] - seen[0] >= 0.4


def test_what_stays_unreadable_is_reported_and_nan() -> None:
    def script(text: str, nth: int) -> Reply:
        if "thing2" in text:
            return completion("I cannot judge that.", {"I": -0.01})
        if "thing4" in text:
            return Reply(500, {})
        if "thing5" in text:
            return Reply(400, {"error": {"message": "too long"}})
        return completion("Yes", LOGS)

    with FaultyServer(script) as server:
        one = rater(server, attempts=3)
        rated = one.rate(ITEMS, RULES)
        np.testing.assert_array_equal(
            np.isnan(rated.psi), np.tile([False, False, True, False, True, True], (5, 1))
        )
        assert one.report.unrated == Counter(
            {"neither Yes, No nor Irrelevant": 5, "status 500": 5, "status 400": 5}
        )
        counts = Counter(re.findall(r"thing\d", " ".join(server.asked)))
        assert (counts["thing2"], counts["thing4"], counts["thing5"]) == (10, 15, 5)


def test_answers_without_log_probabilities_are_words() -> None:
    words = {"thing0": "No.", "thing1": "irrelevant", "thing2": "**Yes**"}

    def script(text: str, nth: int) -> Reply:
        return completion(next(w for thing, w in words.items() if thing in text))

    with FaultyServer(script) as server:
        rated = rater(server).rate(ITEMS[:1], RULES[:3])
    assert rated.psi.tolist() == [[-1, 0, 1]]
    assert rated.relevance is not None
    assert rated.relevance.tolist() == [[1, 0, 1]]


def test_several_rules_in_a_request_and_half_an_answer() -> None:
    def script(text: str, nth: int) -> Reply:
        listed = re.findall(r"^(\d+)\. .*thing(\d)", text, re.MULTILINE)
        lines = [f"{n}: {'Yes' if int(thing) % 2 else 'No'}" for n, thing in listed]
        return completion("\n".join(lines[:2]))

    with FaultyServer(script) as server:
        one = rater(server, rules_per_request=3)
        rated = one.rate(ITEMS, RULES)
        assert rated.psi.tolist() == [[-1, 1, -1, 1, -1, 1]] * 5
        assert len(server.asked) == 5 * (2 + 2)
        assert "logprobs" not in server.bodies[0]
    assert one.fingerprint.hexdigest != rater(server).fingerprint.hexdigest


def test_a_dry_run_sends_nothing_and_counts() -> None:
    wanted = np.zeros((5, 6), np.bool_)
    wanted[0] = wanted[3, 1] = True
    with FaultyServer(lambda text, nth: completion("Yes", LOGS)) as server:
        one = rater(server, price=PRICE)
        estimate = one.estimate(ITEMS, RULES, wanted)
        assert server.asked == []
        assert (estimate.requests, estimate.ratings) == (7, 7)
        assert estimate.input_tokens > 7 * 50
        assert estimate.cost == pytest.approx(
            PRICE.of(estimate.input_tokens, estimate.output_tokens)
        )
        grouped = rater(server, rules_per_request=4).estimate(ITEMS, RULES, wanted)
        assert (grouped.requests, grouped.ratings, grouped.cost) == (3, 7, None)


def test_the_spending_limit_is_not_passed() -> None:
    with FaultyServer(lambda text, nth: completion("Yes", LOGS)) as server:
        limit = PRICE.of(100, 1) * 10.5
        one = rater(server, price=PRICE, max_cost=limit, concurrency=3)
        rated = one.rate(ITEMS, RULES)
        assert one.report.cost <= limit
        assert 8 <= int((~np.isnan(rated.psi)).sum()) <= 10
        assert one.report.unrated["spending limit"] == 30 - one.report.ratings


def test_a_store_keeps_what_was_rated_and_asks_for_the_rest_alone(tmp_path: Path) -> None:
    broken = True

    def script(text: str, nth: int) -> Reply:
        return Reply(500, {}) if broken and "thing1" in text else completion("Yes", LOGS)

    pairs, rules = make_pairs(4), make_rules(3)
    with FaultyServer(script) as server, RatingStore(tmp_path) as store:
        first = rate_pairs(pairs, rules, rater(server, attempts=2), store)
        assert (first.rated, first.failed) == (16, 8)
        asked = len(server.asked)
        broken = False
        second = rate_pairs(pairs, rules, rater(server), store)
        assert (second.rated, second.reused, second.failed) == (8, 16, 0)
        assert len(server.asked) - asked == 8
        np.testing.assert_allclose(second.psi_a, 0.5, atol=1e-6)


def test_hopeless_settings_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for status, body, message in (
        (401, {}, KEY_VARIABLE),
        (404, {}, "does not know 'made'"),
        (429, {"error": {"code": "insufficient_quota"}}, "quota is used up"),
        (422, {"detail": "Unsupported fields: {'logprobs'}"}, "rater.probabilities=false"),
    ):
        with (
            FaultyServer(lambda text, nth, a=status, b=body: Reply(a, b)) as server,
            pytest.raises(UserError, match=message),
        ):
            rater(server, concurrency=2).rate(ITEMS, RULES)
        assert len(server.asked) <= 2
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UserError, match=KEY_VARIABLE):
        OpenAIRater("made").rate(ITEMS, RULES)
    with pytest.raises(UserError, match=r"rater\.price"):
        OpenAIRater("made", base_url="http://127.0.0.1:1/v1", max_cost=1.0)


def test_a_moderated_text_is_given_up_alone() -> None:
    def gateway(text: str, nth: int) -> Reply:
        return Reply(403, {"error": {}}) if "r0" in text else completion("Yes", LOGS)

    with FaultyServer(gateway) as server:
        one = rater(server, concurrency=2)  # r0 is asked about before anything is answered
        rated = one.rate(ITEMS, RULES)
    np.testing.assert_array_equal(np.isnan(rated.psi).all(axis=1), [True] + [False] * 4)
    assert one.report.unrated == Counter({"status 403": 6})


def test_a_forbidden_key_stops_at_once() -> None:
    with (
        FaultyServer(lambda text, nth: Reply(403, {"error": {}})) as server,
        pytest.raises(UserError, match=rf"refused the key \(403\).*{KEY_VARIABLE}"),
    ):
        rater(server, concurrency=2).rate(ITEMS, RULES)
    assert len(server.asked) <= 4


def test_what_was_rated_before_a_stop_is_kept(tmp_path: Path) -> None:
    def revoked(text: str, nth: int) -> Reply:
        return Reply(401, {}) if len(server.asked) > 5 else completion("Yes", LOGS)

    pairs, rules = make_pairs(4), make_rules(3)
    with FaultyServer(revoked) as server, RatingStore(tmp_path) as store:
        one = rater(server, concurrency=1)
        with pytest.raises(UserError, match="refused the key"):
            rate_pairs(pairs, rules, one, store)
        assert store_stats(store).ratings == 5


def test_an_endpoint_that_answers_nothing_stops_the_rater(tmp_path: Path) -> None:
    def down(text: str, nth: int) -> Reply:
        gone = len(server.asked) > 7
        return Reply(500, {"error": "disk full"}) if gone else completion("Yes", LOGS)

    pairs, rules = make_pairs(8), make_rules(6)
    with FaultyServer(down) as server, RatingStore(tmp_path) as store:
        one = rater(server, concurrency=2, attempts=2)
        with pytest.raises(UserError, match=r"20 questions in a row .*status 500.*disk full"):
            rate_pairs(pairs, rules, one, store)
        assert len(server.asked) < 70, "of 96 questions, each asked twice"
        assert store_stats(store).ratings == 7


def test_questions_given_up_in_a_row_stop_nothing_that_answers_others() -> None:
    def script(text: str, nth: int) -> Reply:
        return Reply(400, {"error": "too long"}) if "Response:\nr" in text else completion("Yes")

    with FaultyServer(script) as server:
        one = rater(server, concurrency=2)
        assert np.isnan(one.rate(ITEMS, RULES).psi).all()
    assert one.report.unrated == Counter({"status 400": 30})


def test_words_instead_of_probabilities_are_asked_for_and_counted() -> None:
    with FaultyServer(lambda text, nth: completion("Yes", LOGS)) as server:
        one = rater(server, probabilities=False)
        rated = one.rate(ITEMS, RULES)
        assert "logprobs" not in server.bodies[0]
    np.testing.assert_array_equal(rated.psi, 1.0)
    assert one.report.words == one.report.ratings == 30
    assert one.fingerprint != rater(server).fingerprint


def test_what_cannot_be_rated_is_told_item_by_item() -> None:
    def answer(text: str, nth: int) -> Reply:
        return Reply(400, {"error": {}}) if "r3" in text else completion("Yes", LOGS)

    with FaultyServer(answer) as server:
        one = rater(server)
        rated = one.rate(ITEMS, RULES)
    assert np.isnan(rated.psi).sum() == 6
    assert one.report.reasons == {(ITEMS[3], rule.id): "status 400" for rule in RULES}


def test_the_key_goes_out_but_into_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret-key")
    one = OpenAIRater("made", base_url="http://127.0.0.1:1/v1")
    assert "secret-key" not in str(one.fingerprint.to_plain())


def test_the_address_in_the_environment_is_asked_and_identifies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    openai_own = OpenAIRater("made").fingerprint
    with FaultyServer(lambda text, nth: completion("Yes", LOGS)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        one = OpenAIRater("made")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
        assert one.rate(ITEMS[:1], RULES[:1]).psi.tolist() == [[pytest.approx(0.5)]]
        assert one.fingerprint == rater(server).fingerprint != openai_own


def test_a_running_loop_is_no_obstacle() -> None:
    import asyncio

    async def notebook(server: FaultyServer) -> np.ndarray:
        return rater(server).rate(ITEMS[:1], RULES[:1]).psi

    with FaultyServer(lambda text, nth: completion("Yes", LOGS)) as server:
        assert asyncio.run(notebook(server)).shape == (1, 1)


def test_tokens_of_an_answer() -> None:
    def choice(**top: float) -> SimpleNamespace:
        listed = [SimpleNamespace(token=t, logprob=math.log(p)) for t, p in top.items()]
        first = SimpleNamespace(top_logprobs=listed, token=listed[0].token, logprob=0.0)
        return SimpleNamespace(logprobs=SimpleNamespace(content=[first]))

    assert answer_weights(choice(Yes=0.5, yes=0.1, No=0.3)) == pytest.approx((0.6, 0.3, 0))
    assert answer_weights(choice(Not=0.9, I=0.05)) is None
    assert answer_weights(SimpleNamespace(logprobs=None)) is None
    assert word_weights("Yesterday") is None
    assert word_weights("Irrelevant.") == (0, 0, 1)
    assert listed_answers("1) Yes\n3 - Irrelevant\n9: No", 3) == [(1, 0, 0), None, (0, 0, 1)]


def test_retry_after_in_seconds_and_as_a_date() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    date = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(date, now=1445412470) == 10
    assert retry_after(date, now=1445412490) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
