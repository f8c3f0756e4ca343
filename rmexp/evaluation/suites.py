"""Local suites: sets of judged pairs from files, each under its own name and licence.

LLMBar (Zeng et al. 2023), HumanEvalPack (Muennighoff et al. 2023), HH-RLHF (Bai et al. 2022) and
PKU-SafeRLHF (Ji et al. 2023), and any file of pairs. RewardBench uses some of the same sources; a
figure on one of these suites is a figure on that suite, never a RewardBench figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.evaluation.style import style_tags
from rmexp.preferences import Pair, PreferenceData, prompt_from_text, read_files, read_hub
from rmexp.preferences.pair import Side
from rmexp.preferences.read import file_rows, hub_rows
from rmexp.preferences.rows import pair_from_row, shuffled_side

# The sizes as published, by which a suite that lacks rows is known to be partial.
_LLMBAR = {
    "natural": 100,
    "adversarial-neighbor": 134,
    "adversarial-gptinst": 92,
    "adversarial-gptout": 47,
    "adversarial-manual": 46,
}
_HUMANEVALPACK = dict.fromkeys(("cpp", "go", "java", "js", "python", "rust"), 164)


@dataclass(frozen=True)
class Suite:
    """Judged pairs under a name.

    Attributes:
        name: what to call a figure on it.
        licence: of the data.
        pairs: each with a preference; ``category`` holds the section.
        published: section to rows of the published set, where that is known.
        dropped: reason to number of rows that could not be used.
    """

    name: str
    licence: str
    pairs: tuple[Pair, ...]
    published: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def partial(self) -> dict[str, tuple[int, int]]:
        """Section to (rows there, rows published) of those that lack rows."""
        there = Counter(pair.category for pair in self.pairs)
        return {s: (there[s], n) for s, n in self.published.items() if there[s] < n}

    def to_plain(self) -> dict[str, Any]:
        """What a result says of the suite."""
        return {
            "name": self.name,
            "licence": self.licence,
            "pairs": len(self.pairs),
            "partial": {section: list(rows) for section, rows in self.partial.items()},
            "dropped": dict(self.dropped),
        }


def read_llmbar(folder: Path | str) -> Suite:
    """LLMBar from its JSON files, one a section, sides as published.

    Raises:
        UserError: naming file and row.
    """

    def pair(where: str, section: str, row: Mapping[str, Any]) -> Pair:
        prompt, a, b = (_text(where, row, name) for name in ("input", "output_1", "output_2"))
        if row.get("label") not in (1, 2):
            raise UserError(f"{where}: 'label' must be 1 or 2, got {row.get('label')!r}")
        preference: Side = "a" if row["label"] == 1 else "b"
        return Pair(where, prompt_from_text(prompt), a, b, preference, category=section)

    return _by_section("LLMBar", "MIT", Path(folder), _LLMBAR, pair)


def read_humanevalpack(folder: Path | str) -> Suite:
    """HumanEvalPack as pairs: the prompt's code with the right solution against the buggy one.

    Raises:
        UserError: naming file and row.
    """
    return _by_section("HumanEvalPack", "MIT", Path(folder), _HUMANEVALPACK, _humanevalpack_pair)


def _humanevalpack_pair(where: str, section: str, row: Mapping[str, Any]) -> Pair:
    names = ("task_id", "instruction", "prompt", "canonical_solution", "buggy_solution")
    task, instruction, start, right, wrong = (_text(where, row, name) for name in names)
    side = shuffled_side(0, task)
    a, b = (right, wrong) if side == "a" else (wrong, right)
    prompt = prompt_from_text(instruction)
    # The six languages have the same tasks: Python/12 is CPP/12.
    group = f"HumanEval/{task.rpartition('/')[2]}"
    return Pair(task, prompt, start + a, start + b, side, category=section, group=group)


def read_hh(path: Path | str) -> Suite:
    """HH-RLHF dialogues; rows whose two dialogues differ before the last turn are dropped.

    Raises:
        UserError: nothing usable.
    """
    return _from_files("HH-RLHF", "MIT", path)


def read_pku(path: Path | str) -> Suite:
    """PKU-SafeRLHF tuples of a safer and a more harmful response; repeated pairs count once.

    Raises:
        UserError: nothing usable.
    """
    return _from_files("PKU-SafeRLHF", "CC BY-NC 4.0 (not for commercial use)", path)


def read_pairs_suite(
    path: Path | str, *, name: str, licence: str, styles: Sequence[str] = ()
) -> Suite:
    """Any file of judged pairs, or of one-to-many rows.

    A one-to-many row holds lists in ``chosen`` and ``rejected``: each chosen response is paired
    with each rejected one, so that an accuracy is over pairs. All of a row share its prompt, by
    which intervals resample.

    Args:
        path: ``.jsonl``, ``.json`` or ``.parquet``; see :mod:`rmexp.preferences.rows` for pairs.
        name: what to call a figure on it.
        licence: of the data.
        styles: of one-to-many rows, the style of each place in the lists, from plain to elaborate
            (RM-Bench: concise, detailed, markdown).

    Raises:
        UserError: naming file and row; for a row without a preference; for the name RewardBench;
            for lists of another length than the styles.
    """
    if sounds_like_rewardbench(name):
        raise UserError(
            f"name '{name}': a figure on a local suite is no RewardBench figure; name it otherwise"
        )
    if not licence.strip():
        raise UserError(f"{path}: say under which licence suite '{name}' stands")
    pairs = []
    for where, row in file_rows(Path(path)):
        for place, single in _one_to_one(where, row, styles):
            pair = pair_from_row(single, place)
            if pair.preference is None:
                raise UserError(f"{place}: no human preference, so nothing to compare with")
            pairs.append(pair)
    _check_pairs(str(path), pairs)
    return Suite(name, licence, tuple(pairs))


def sounds_like_rewardbench(name: str) -> bool:
    """Whether a reader would take a name for RewardBench's, however it is spelt.

    >>> [sounds_like_rewardbench(n) for n in ("reward.Bench_2", "my rewards")]
    [True, False]
    """
    return "rewardbench" in "".join(c for c in name.casefold() if c.isalpha())


SUITES: dict[str, Callable[[Path | str], Suite]] = {
    "llmbar": read_llmbar,
    "humanevalpack": read_humanevalpack,
    "hh": read_hh,
    "pku": read_pku,
}


def read_suite(kind: str, path: Path | str | None) -> Suite:
    """A suite by its key in :data:`SUITES`, from local files or (HumanEvalPack, HH) the hub.

    Raises:
        UserError: naming file and row; listing the keys for one that is not known; for a suite
            that needs a path.
    """
    if kind not in SUITES:
        raise UserError(f"suite '{kind}' is not known: use one of {', '.join(SUITES)}")
    if path is not None:
        return SUITES[kind](path)
    if kind == "hh":
        return _of_data(
            "HH-RLHF",
            "MIT",
            read_hub(
                "Anthropic/hh-rlhf", split="test", data_dir="harmless-base", on_invalid="drop"
            ),
        )
    if kind == "humanevalpack":
        pairs = [
            _humanevalpack_pair(where, section, row)
            for section in _HUMANEVALPACK
            for where, row in hub_rows("bigcode/humanevalpack", split="test", config_name=section)
        ]
        return Suite("HumanEvalPack", "MIT", tuple(pairs), _HUMANEVALPACK)
    raise UserError(f"suite.path: suite '{kind}' is read from local files; give their folder")


def _by_section(
    name: str,
    licence: str,
    folder: Path,
    published: Mapping[str, int],
    pair: Callable[[str, str, Mapping[str, Any]], Pair],
) -> Suite:
    """A suite of one file a section; sections without a file are partial."""
    pairs: list[Pair] = []
    for section in published:
        for file in _section_files(folder, section):
            for where, row in file_rows(file):
                if not isinstance(row, Mapping):
                    raise UserError(f"{where}: expected an object, got {type(row).__name__}")
                pairs.append(pair(where, section, row))
    if not pairs:
        raise UserError(f"{folder}: no file of {name} in it; expected {', '.join(published)}")
    _check_pairs(str(folder), pairs)
    return Suite(name, licence, tuple(pairs), published)


def _section_files(folder: Path, section: str) -> list[Path]:
    """The section's file, whatever its ending; the first where it is there packed and unpacked."""
    return sorted(folder.glob(f"{section}.json*"))[:1]


def _from_files(name: str, licence: str, path: Path | str) -> Suite:
    return _of_data(name, licence, read_files(path, on_invalid="drop"))


def _of_data(name: str, licence: str, data: PreferenceData) -> Suite:
    if any(pair.preference is None for pair in data.pairs):
        source = data.report.source
        raise UserError(f"{source}: not a file of {name}: it has pairs without a preference")
    return Suite(name, licence, data.pairs, dropped=dict(data.report.dropped))


def _one_to_one(where: str, row: Any, styles: Sequence[str]) -> Iterator[tuple[str, Any]]:
    sides = [row.get(s) for s in ("chosen", "rejected")] if isinstance(row, Mapping) else []
    many = [_texts(side) for side in sides]
    if not any(many):
        yield where, row
        return
    for name, side in zip(("chosen", "rejected"), many, strict=True):
        if not side:
            raise UserError(f"{where}: '{name}' must be a list of texts, as the other side is")
        if styles and len(side) != len(styles):
            raise UserError(f"{where}: '{name}' has {len(side)} texts for {len(styles)} styles")
    base = str(row.get("id") or where)
    for i, good in enumerate(many[0]):
        for j, bad in enumerate(many[1]):
            pair = {**row, "chosen": good, "rejected": bad, "id": f"{base}:{i}:{j}"}
            if styles:
                own = row.get("tags") or ()
                pair["tags"] = [*own, *style_tags((i, styles[i]), (j, styles[j]))]
            yield f"{where} (chosen {i}, rejected {j})", pair


def _texts(value: Any) -> Sequence[str]:
    """The list of texts, empty where it is not one (message lists are one response)."""
    listed = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return value if listed else []


def _text(where: str, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: '{name}' must be a text that is not empty")
    return value


def _check_pairs(source: str, pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise UserError(f"{source}: no pair in it")
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise UserError(f"{source}: id '{pair.id}' stands twice")
        seen.add(pair.id)
