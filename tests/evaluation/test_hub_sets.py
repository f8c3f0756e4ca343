"""RewardBench from the hub: asked for by its names, columns as published; ``datasets`` is faked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import pytest
from bench_rows import rewardbench2_rows, rewardbench_rows

from rmexp.errors import UserError
from rmexp.evaluation.rewardbench import PRIOR_SETS
from rmexp.evaluation.sets import read_set
from rmexp.preferences.read import HUB_ROWS

DIALOGUE = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]
Hub = dict[tuple[str, str], list[dict[str, Any]]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], list[tuple[str, str]]]:
    """A hub that holds these tables by (data set, split); gives the list of what is asked for."""

    def holds(tables: Hub) -> list[tuple[str, str]]:
        asked: list[tuple[str, str]] = []

        def load(name: str, config: str | None, *, data_dir: str | None, split: str) -> Any:
            assert (config, data_dir) == (None, None)
            asked.append((name, split))
            if (name, split) not in tables:
                raise ValueError(f"Unknown split '{split}'")
            return datasets.Dataset.from_list(tables[name, split])

        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    monkeypatch.delenv(HUB_ROWS, raising=False)
    return holds


def prior(name: str) -> list[dict[str, Any]]:
    """As the hub has them: the set's own idea of a subset, ids that repeat from set to set."""
    row = {"prompt": DIALOGUE, "chosen": "yes", "rejected": "no", "subset": f"{name} 2022"}
    return [{**row, "id": i} for i in range(2)]


def test_rewardbench_1(hub: Callable[[Hub], list[tuple[str, str]]]) -> None:
    asked = hub({("allenai/reward-bench", "filtered"): rewardbench_rows()})
    found = read_set("rewardbench")
    assert asked == [("allenai/reward-bench", "filtered")]
    plain = rewardbench_rows()
    assert found.ids == [str(row["id"]) for row in plain]
    for row, source in zip(found.rows, plain, strict=True):
        assert (row.chosen, row.rejected) == (source["chosen"], source["rejected"])
        assert row.subset == source["subset"]
        assert [m.content for m in row.prompt] == [source["prompt"]]


def test_rewardbench_2(hub: Callable[[Hub], list[tuple[str, str]]]) -> None:
    asked = hub({("allenai/reward-bench-2", "test"): rewardbench2_rows()})
    found = read_set("rewardbench2")
    assert asked == [("allenai/reward-bench-2", "test")]
    plain = rewardbench2_rows()
    assert found.ids == [row["id"] for row in plain]
    for row, source in zip(found.rows, plain, strict=True):
        assert [*row.options] == source["chosen"] + source["rejected"]
        assert (row.num_correct, row.subset) == (source["num_correct"], source["subset"])


def test_prior_sets_alone_and_beside_rewardbench_1(
    hub: Callable[[Hub], list[tuple[str, str]]],
) -> None:
    tables: Hub = {("allenai/pref-test-sets", name): prior(name) for name in PRIOR_SETS}
    asked = hub({**tables, ("allenai/reward-bench", "filtered"): rewardbench_rows()})
    found = read_set("prior_sets")
    assert asked == [("allenai/pref-test-sets", name) for name in PRIOR_SETS]
    assert [row.subset for row in found.rows] == [name for name in PRIOR_SETS for _ in range(2)]
    assert len(set(found.ids)) == 8
    assert [m.content for m in found.rows[0].prompt] == ["a", "b", "c"]
    both = read_set("rewardbench", prior="hub")
    assert asked[4:] == [("allenai/reward-bench", "filtered"), *asked[:4]]
    assert both.rows[-8:] == found.rows


def test_what_the_hub_does_not_have_is_one_line(
    hub: Callable[[Hub], list[tuple[str, str]]],
) -> None:
    hub({})
    with pytest.raises(UserError, match="cannot load 'allenai/reward-bench' split 'filtered'"):
        read_set("rewardbench")
