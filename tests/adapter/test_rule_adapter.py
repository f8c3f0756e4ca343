from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from word_pairs import OneForAll, WordCounter, make_pairs

from rmexp.adapter.model import RuleAdapter, load_rule_adapter
from rmexp.adapter.selector import AdapterSelector
from rmexp.adapter.settings import read_settings
from rmexp.adapter.train import AdapterTraining, fit_known, train_rule_adapter
from rmexp.backbone.batching import Rows
from rmexp.backbone.classifier import Classifier
from rmexp.errors import UserError
from rmexp.fingerprint import fingerprint
from rmexp.labelling import SelectionContext
from rmexp.rating.rater import Embedder
from rmexp.rules import RuleSet

ONE = OneForAll()
QUICK = AdapterTraining(epochs=1, max_length=128, threads=1, learning_rate=3e-3)


def _train(
    rules: RuleSet,
    cache: Path,
    options: AdapterTraining = QUICK,
    model: str = "tiny_encoder",
    embedder: Embedder = ONE,
) -> RuleAdapter:
    pairs, critical = make_pairs(48)
    return train_rule_adapter(
        pairs,
        critical,
        rules,
        options,
        model=model,
        gamma=float("inf"),
        rater=fingerprint("nobody"),
        embedder=embedder,
        cache_dir=cache,
    )


@pytest.fixture(scope="module")
def adapter(rules: RuleSet, cache: Path) -> RuleAdapter:
    return _train(rules, cache, replace(QUICK, epochs=5))


@pytest.fixture(scope="module")
def folder(adapter: RuleAdapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter.save(tmp_path_factory.mktemp("adapters") / "a")


def test_it_learns_what_the_texts_tell(adapter: RuleAdapter, folder: Path, rules: RuleSet) -> None:
    pairs, critical = make_pairs(30, offset=1)
    chosen = AdapterSelector(folder, rules, 2, OneForAll).select(SelectionContext(pairs))
    assert np.array_equal(np.sort(chosen, axis=1), np.sort(critical, axis=1))
    top = AdapterSelector(folder, rules, 1, OneForAll).select(SelectionContext(pairs))
    assert np.array_equal(top, adapter.logits(pairs).argmax(axis=1)[:, None])


@pytest.mark.parametrize("model", ["tiny", "tiny_encoder"])
def test_the_same_seed_gives_the_same_bits(model: str, rules: RuleSet, cache: Path) -> None:
    pairs, _ = make_pairs(5)
    one, two = (_train(rules, cache, model=model).logits(pairs) for _ in range(2))
    other = _train(rules, cache, replace(QUICK, seed=1), model).logits(pairs)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_before_training_it_ranks_by_frequency(rules: RuleSet, cache: Path) -> None:
    untrained = _train(rules, cache, replace(QUICK, learning_rate=1e-12))
    pairs, _ = make_pairs(6)
    logits = untrained.logits(pairs)
    assert (logits.argmax(axis=1) == 3).all()
    np.testing.assert_allclose(untrained.settings.frequency, [1 / 3, 1 / 3, 1 / 3, 1], atol=1e-9)
    np.testing.assert_allclose(logits[:, 0], np.log(0.5), atol=0.5)


def test_before_training_it_uses_the_relevance_that_helps(rules: RuleSet, cache: Path) -> None:
    options = replace(QUICK, learning_rate=1e-12)
    untrained = _train(rules, cache, options, embedder=WordCounter())
    assert untrained.settings.relevance_weight > 1
    pairs, critical = make_pairs(6, offset=2)
    chosen = np.argsort(-untrained.logits(pairs), axis=1)[:, :2]
    assert np.array_equal(np.sort(chosen, axis=1), np.sort(critical, axis=1))


def test_relevance_that_tells_nothing_is_not_weighed() -> None:
    generator = np.random.default_rng(0)
    targets = (generator.random((4000, 3)) < [0.1, 0.5, 0.8]).astype(np.float32)
    offsets, weight = fit_known(targets, generator.random((4000, 3)).astype(np.float32))
    assert abs(weight) < 0.2
    np.testing.assert_allclose(offsets + weight / 2, np.log([1 / 9, 1, 4]), atol=0.15)


def test_another_encoder_is_refused(folder: Path, rules: RuleSet) -> None:
    with pytest.raises(UserError, match=r"rater\.encoder: .* another sentence encoder"):
        load_rule_adapter(folder, rules, WordCounter())


def test_a_logit_does_not_depend_on_its_batch_nor_on_the_sides(adapter: RuleAdapter) -> None:
    pairs, _ = make_pairs(12)
    together = adapter.logits(pairs)
    alone = np.concatenate([adapter.logits([pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    swapped = [replace(p, response_a=p.response_b, response_b=p.response_a) for p in pairs]
    np.testing.assert_array_equal(together, adapter.logits(swapped))


def test_an_accelerator_takes_the_whole_token_budget(
    folder: Path, rules: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load_rule_adapter(folder, rules, ONE)
    pairs, _ = make_pairs(40)
    rectangles = []

    def scores(classifier: Classifier, rows: list[Rows], count: int) -> torch.Tensor:
        rectangles.append(len(rows))
        return torch.zeros(count, len(rules), device=classifier.device)

    monkeypatch.setattr("rmexp.adapter.model.parallel_scores", scores)
    for device in ("cpu", "meta"):  # meta: a device that is no CPU
        adapter.classifier.model.to(device)
        adapter.run(adapter.tokens(pairs), torch.zeros(40, len(rules)), 100_000)
    assert rectangles[0] > rectangles[1] == 1


def test_a_saved_adapter_is_the_same(adapter: RuleAdapter, folder: Path) -> None:
    pairs, _ = make_pairs(12)
    loaded = load_rule_adapter(folder, adapter.rules, ONE)
    # Not to the last bit: weights that lie otherwise in memory are summed in another order.
    np.testing.assert_allclose(loaded.logits(pairs), adapter.logits(pairs), atol=1e-6, rtol=1e-6)
    assert loaded.settings == adapter.settings == read_settings(folder)
    assert loaded.settings.gamma == float("inf")
    assert (folder / "model.safetensors").is_file()
    assert not loaded.settings.unseen(pairs)
    with pytest.raises(UserError, match="exists already"):
        adapter.save(folder)


def test_an_adapter_that_lost_its_head_is_refused(
    folder: Path, rules: RuleSet, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    weights = {n: w for n, w in load_file(path).items() if n != "classifier.weight"}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights .*classifier\.weight"):
        load_rule_adapter(tmp_path / "a", rules, ONE)


@pytest.mark.parametrize("change", ["order", "sentence", "fewer"])
def test_another_rule_set_is_refused_by_name(change: str, rules: RuleSet, folder: Path) -> None:
    changed = {
        "order": rules.rules[::-1],
        "sentence": (replace(rules.rules[0], sentence="Another one."), *rules.rules[1:]),
        "fewer": rules.rules[1:],
    }[change]
    with pytest.raises(UserError, match=r"trained for rule set 'four' \(4 rules\), not for 'mine'"):
        AdapterSelector(folder, RuleSet("mine", changed), 1, OneForAll)
    AdapterSelector(folder, RuleSet("the same by another name", rules.rules), 1, OneForAll)


def test_logits_are_kept_by_content(
    folder: Path, rules: RuleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, _ = make_pairs(6)
    first = AdapterSelector(folder, rules, 1, OneForAll, tmp_path).select(SelectionContext(pairs))
    with monkeypatch.context() as patched:
        patched.setattr("rmexp.adapter.model.load_rule_adapter", None)
        again = AdapterSelector(folder, rules, 2, OneForAll, tmp_path).select(
            SelectionContext(pairs)
        )
        with pytest.raises(TypeError):
            AdapterSelector(folder, rules, 2, OneForAll, tmp_path).select(
                SelectionContext(pairs[:3])
            )
    assert np.array_equal(again[:, :1], first)


def test_the_fingerprint_is_by_weights_and_r(
    folder: Path, rules: RuleSet, cache: Path, tmp_path: Path
) -> None:
    other = _train(rules, cache, replace(QUICK, seed=1)).save(tmp_path / "b")
    prints = {
        AdapterSelector(f, rules, r, OneForAll).fingerprint.hexdigest
        for f in (folder, other)
        for r in (1, 2)
    }
    assert len(prints) == 4
    assert not AdapterSelector.needs_ratings


def test_a_folder_without_an_adapter_is_named(rules: RuleSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no Rule Adapter here \(rmexp_adapter.json is missing\)"):
        AdapterSelector(tmp_path, rules, 1, OneForAll)


def test_an_infinite_loss_names_the_key(rules: RuleSet, cache: Path) -> None:
    with pytest.raises(UserError, match="learning_rate: the loss is NaN or infinite"):
        _train(rules, cache, replace(QUICK, learning_rate=1e30, warmup_steps=0, epochs=3))
