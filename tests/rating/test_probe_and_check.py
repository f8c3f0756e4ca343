from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rating_fakes import HashEmbedder, HashRater, make_rules

from rmexp.errors import UserError
from rmexp.fingerprint import fingerprint
from rmexp.preferences import prompt_from_text
from rmexp.rating.check import auc, check_rater, mean_auc, probability_error
from rmexp.rating.probe import ABOUT, WEIGHTS, ProbeRater, fit_probe, load_probe
from rmexp.rating.rater import Item, RatedBatch
from rmexp.rules import Rule

PLEASE = Rule("please", "The response says please.", "x")
SORRY = Rule("sorry", "The response says sorry.", "x")


def labelled(count: int, seed: int) -> tuple[list[Item], np.ndarray]:
    random = np.random.default_rng(seed)
    words = np.array(["table", "chair", "window", "river", "garden", "cloud", "street", "music"])
    labels = random.integers(0, 2, (count, 2)).astype(np.float32)
    items = []
    for please, sorry in labels:
        text = " ".join(random.choice(words, 6)) + "."
        text += " please" * int(please) + " sorry" * int(sorry)
        items.append(Item(prompt_from_text("Say something"), text))
    return items, labels


@pytest.fixture(scope="module")
def probe():  # type: ignore[no-untyped-def]
    items, labels = labelled(80, seed=0)
    labels[:10, 1] = np.nan
    return fit_probe(items, [PLEASE, SORRY], labels, HashEmbedder())


def test_a_probe_learns_its_rules_and_counts_its_examples(probe) -> None:  # type: ignore[no-untyped-def]
    items, labels = labelled(60, seed=1)
    checks = check_rater(ProbeRater(probe, HashEmbedder()), items, [SORRY, PLEASE], labels[:, ::-1])
    assert [check.rule_id for check in checks] == ["sorry", "please"]
    assert min(check.auc for check in checks) > 0.95
    assert min(check.agreement for check in checks) > 0.85
    assert probe.heads[0].positives + probe.heads[0].negatives == 80
    assert probe.heads[1].positives + probe.heads[1].negatives == 70


def test_a_saved_probe_rates_the_same(probe, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    probe.save(tmp_path / "probe")
    loaded = ProbeRater(load_probe(tmp_path / "probe"), HashEmbedder())
    rater = ProbeRater(probe, HashEmbedder())
    items, _ = labelled(9, seed=2)
    assert loaded.fingerprint == rater.fingerprint
    np.testing.assert_array_equal(loaded.rate(items, [PLEASE]).psi, rater.rate(items, [PLEASE]).psi)


def test_probes_on_other_data_have_another_fingerprint(probe) -> None:  # type: ignore[no-untyped-def]
    items, labels = labelled(40, seed=3)
    other = fit_probe(items, [PLEASE, SORRY], labels, HashEmbedder())
    mine, theirs = (ProbeRater(p, HashEmbedder()).fingerprint for p in (probe, other))
    assert mine.hexdigest != theirs.hexdigest


def test_what_a_probe_refuses(probe, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    class Other(HashEmbedder):
        fingerprint = fingerprint("other")

    with pytest.raises(UserError, match="another sentence encoder"):
        ProbeRater(probe, Other())
    items, labels = labelled(20, seed=0)
    unknown = Rule("kind", "The response is kind.", "x")
    with pytest.raises(UserError, match=r"'kind'.*knows please, sorry"):
        ProbeRater(probe, HashEmbedder()).rate(items, [unknown])
    labels[:, 1] = 0
    labels[:4, 1] = 1
    with pytest.raises(UserError, match="'sorry': 4 labelled responses follow"):
        fit_probe(items, [PLEASE, SORRY], labels, HashEmbedder())
    with pytest.raises(UserError, match="rater fit"):
        load_probe(tmp_path)
    probe.save(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        load_probe(tmp_path)
    (tmp_path / ABOUT).write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        load_probe(tmp_path)


def test_auc_counts_ties_half_and_matches_counting() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, 50).astype(float)
    positive = random.random(50) < 0.4
    pairs = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(scores, np.zeros(50, np.bool_)))


def test_calibration_error_of_known_probabilities() -> None:
    follows = np.array([True] * 7 + [False] * 3)
    assert probability_error(np.full(10, 0.7), follows) == pytest.approx(0)
    assert probability_error(np.full(10, 0.2), follows) == pytest.approx(0.5)


def test_a_check_leaves_out_what_is_not_labelled_and_counts_what_is_not_rated() -> None:
    class Sign:
        fingerprint = fingerprint("sign")

        def rate(self, items, rules, wanted=None):  # type: ignore[no-untyped-def]
            assert wanted is not None
            psi = np.array([[0.5], [-0.5], [np.nan], [0.9]], np.float32)
            return RatedBatch(np.where(wanted, psi, np.nan))

    items = [Item(prompt_from_text("p"), str(i)) for i in range(4)]
    [check] = check_rater(Sign(), items, [PLEASE], [[1], [0], [1], [np.nan]])
    assert (check.positives, check.negatives, check.unrated) == (1, 1, 1)
    assert (check.auc, check.agreement, check.base_rate) == (1, 1, 0.5)
    assert check.calibration_error == pytest.approx(0.25)
    assert mean_auc([check]) == 1


def test_labels_must_fit() -> None:
    items = [Item(prompt_from_text("p"), "r")]
    with pytest.raises(ValueError, match="must be"):
        check_rater(HashRater(), items, make_rules(2).rules, [[1]])
    with pytest.raises(ValueError, match="1, 0, or NaN"):
        check_rater(HashRater(), items, make_rules(1).rules, [[-1]])
