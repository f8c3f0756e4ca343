from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rmexp.backbone.load import load_sequence_classifier
from rmexp.backbone.options import PeftOptions
from rmexp.backbone.text import TextTemplate
from rmexp.backbone.tokens import TokenStore
from rmexp.preferences.pair import Pair, prompt_from_text
from rmexp.reward.batches import PairDataset, PairSampler, tokenise_pairs
from rmexp.reward.data import TrainingPairs
from rmexp.reward.loaders import PairLoaders


def pairs_of(*sides: tuple[str, str], prompt: str = "p") -> TrainingPairs:
    return TrainingPairs(
        ids=[f"pair{i}" for i in range(len(sides))],
        prompts=[prompt_from_text(prompt)] * len(sides),
        chosen=[a for a, _ in sides],
        rejected=[b for _, b in sides],
    )


@pytest.fixture
def store(tiny: Path) -> TokenStore:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    return TokenStore(TextTemplate(tokenizer, name="plain", max_length=40, causal=True), None)


def test_pairs_that_truncation_makes_identical_are_dropped_and_counted(store: TokenStore):
    long = "x" * 60
    pairs = pairs_of((long + "good", long + "bad"), ("yes", "no"), ("same", "same"))
    data = tokenise_pairs(pairs, store)
    assert data.pairs.ids == ["pair1"]
    assert data.counts["dropped_identical_after_truncation"] == 1
    assert data.counts["dropped_identical"] == 1
    assert data.counts["pairs"] == 3


def test_truncation_is_counted_and_drops_nothing(store: TokenStore):
    data = tokenise_pairs(pairs_of(("y" * 60, "n" * 60), ("yes", "no"), prompt="q" * 3), store)
    assert len(data.pairs) == 2
    assert data.counts["truncated"] == 1
    assert data.counts["truncated_responses"] == 1
    assert max(len(t.ids) for t in data.chosen) == 40


def test_two_ranks_share_each_global_batch_and_know_its_weight():
    weight = np.linspace(1, 2, 11)

    def batches(rank: int, ranks: int) -> list:
        sampler = PairSampler(11, batch_pairs=4, seed=3, weight=weight, rank=rank, ranks=ranks)
        sampler.set_epoch(2)
        return list(sampler)

    whole, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert len(whole) == len(first) == len(second) == 3
    for one, a, b in zip(whole, first, second, strict=True):
        assert sorted([*a.index, *b.index]) == sorted(one.index)
        assert a.global_weight == b.global_weight == one.global_weight
        assert one.global_weight == pytest.approx(weight[one.index].sum())


def test_a_rank_without_a_pair_takes_part_without_weight(store: TokenStore, tiny: Path):
    sampler = PairSampler(1, batch_pairs=4, seed=0, rank=1, ranks=2)
    batch = next(iter(sampler))
    data = tokenise_pairs(pairs_of(("yes", "no")), store)
    made = PairDataset(data, load_sequence_classifier(tiny, seed=0), token_budget=64)[batch]
    assert made.weight.tolist() == [0.0]
    assert made.global_weight == 1.0


def test_an_accelerator_takes_the_whole_token_budget(store: TokenStore, tiny: Path):
    data = tokenise_pairs(pairs_of(*[("y" * 30, "n" * 30)] * 20), store)
    classifier = load_sequence_classifier(tiny, seed=0)
    dataset = PairDataset(data, classifier, token_budget=4096, share_prompts=False)
    batch = next(iter(PairSampler(20, batch_pairs=20, seed=0)))
    assert len(dataset[batch].rows) > 1
    classifier.model.to("meta")  # a device that is no CPU
    assert len(dataset[batch].rows) == 1


def test_frozen_states_are_computed_on_the_ranks_own_device(store: TokenStore, tiny: Path):
    data = tokenise_pairs(pairs_of(("yes", "no")), store)
    classifier = load_sequence_classifier(tiny, seed=0, peft=PeftOptions(kind="head_only"))
    seen = []
    frozen: Any = SimpleNamespace(states=lambda tokens: seen.append(classifier.device.type))
    loaders = PairLoaders(
        data,
        data,
        classifier,
        frozen,
        batch_pairs=1,
        micro_batch_pairs=None,
        token_budget=64,
        share_prompts=True,
        shuffle=False,
        seed=0,
    )
    loaders.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    loaders.setup("fit")
    assert seen == ["meta", "meta"]


def test_the_order_is_seeded_and_fresh_each_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = PairSampler(20, batch_pairs=20, seed=seed)
        sampler.set_epoch(epoch)
        return next(iter(sampler)).index.tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_training_pairs_are_checked():
    with pytest.raises(ValueError, match="chosen has 1 entries for 2"):
        TrainingPairs(["a", "b"], [(), ()], ["x"], ["y", "z"])
    for bad in ({"margin": [np.nan]}, {"target": [1.5]}, {"weight": [-1.0]}):
        values = {k: np.array(v) for k, v in bad.items()}
        with pytest.raises(ValueError, match="entries"):
            TrainingPairs(["a"], [()], ["x"], ["y"], **values)


def test_only_pairs_with_a_human_preference_become_labels():
    prompt = prompt_from_text("p")
    pairs = [Pair("1", prompt, "x", "y", "b"), Pair("2", prompt, "x", "y", None)]
    labelled = TrainingPairs.from_preferences(pairs)
    assert (labelled.ids, labelled.chosen, labelled.rejected) == (["1"], ["y"], ["x"])
