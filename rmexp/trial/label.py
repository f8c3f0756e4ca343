"""The command label: a file of labelled pairs that TRL's RewardTrainer loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rmexp.errors import UserError
from rmexp.trial.tracked import TrackedConfig, tracked

if TYPE_CHECKING:
    from rmexp.trial.labelled import LabelledPairs

_SUFFIXES = (".parquet", ".jsonl")


class LabelConfig(TrackedConfig):
    """What is labelled, and where the labels go."""

    part: Literal["train", "validation", "test", "all"] = Field(
        "all", description="which part of the split"
    )
    out: str = Field(description="a .parquet or .jsonl file")

    @model_validator(mode="after")
    def _a_file_can_say_it(self) -> LabelConfig:
        if Path(self.out).suffix not in _SUFFIXES:
            raise ValueError(f"out: use a file that ends in {' or '.join(_SUFFIXES)}")
        if self.selection.tie == "half":
            raise ValueError("selection.tie=half: a file of pairs has no halves; use drop, a or b")
        return self


def label_file(
    config: LabelConfig, progress: Callable[[int, int], None] | None = None
) -> tuple[str, LabelledPairs]:
    """Read, rate, select, label, and write the kept pairs to ``config.out``.

    Args:
        config: of the command.
        progress: called with (ratings done, ratings wanted).

    Returns:
        What was read and dropped, as text; and the labels.

    Raises:
        UserError: naming what cannot be used, before anything is rated where that can be told.
    """
    from rmexp.trial import assembly, reading
    from rmexp.trial.labelled import label, part_of, rate

    assembly.check_before_anything_heavy(config)
    out = Path(config.out)
    if not out.absolute().parent.is_dir():
        raise UserError(f"out: no folder {out.absolute().parent} to write into")
    rules = assembly.rule_set(config)
    data = reading.read_pairs(config.data)
    with tracked(config, "label", out.stem) as run:
        pairs = part_of(data, config.data, config.part)
        labelled = label(config, rate(config, pairs, rules, progress))
        write_labels(labelled, out)
        run.summary |= labelled.metrics()
        for name, (columns, rows) in labelled.tables().items():
            run.tracker.table(name, columns, rows)
    return "\n".join(filter(None, [str(data.report), labelled.left_out])), labelled


def label_rows(labelled: LabelledPairs) -> Iterator[dict[str, Any]]:
    """One row a kept pair, in TRL's conversational preference format with an explicit prompt.

    Columns: ``prompt``, ``chosen``, ``rejected`` (lists of ``{role, content}``, the last two of
    one assistant message each); ``margin`` in [0, 1], which RewardTrainer subtracts as
    Bradley-Terry margin: drop the column to train without one; ``critical_rules`` (ids),
    ``chosen_ratings`` and ``rejected_ratings`` (of those rules, in their order);
    ``contradictory``; ``agrees_with_human`` (null where unknown); ``id`` and ``category``.
    """
    rated, labels = labelled.rated, labelled.labels
    ids, agrees = rated.rules.ids, labelled.agrees
    for i, pair in enumerate(rated.pairs):
        if not labels.kept[i]:
            continue
        critical = labelled.critical[i]
        sides = [
            (pair.response_a, rated.ratings.psi_a[i, critical]),
            (pair.response_b, rated.ratings.psi_b[i, critical]),
        ]
        chosen, rejected = sides if labels.preferred[i] == 1 else sides[::-1]
        yield {
            "id": pair.id,
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "chosen": [{"role": "assistant", "content": chosen[0]}],
            "rejected": [{"role": "assistant", "content": rejected[0]}],
            "margin": abs(float(labels.margin[i])),
            "critical_rules": [ids[c] for c in critical],
            "chosen_ratings": [float(x) for x in chosen[1]],
            "rejected_ratings": [float(x) for x in rejected[1]],
            "contradictory": bool(labels.contradictory[i]),
            "agrees_with_human": None if agrees[i] != agrees[i] else bool(agrees[i]),
            "category": pair.category,
        }


def write_labels(labelled: LabelledPairs, path: Path) -> None:
    """Write :func:`label_rows` as Parquet or JSONL; the old file stays until the new one is whole.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".parquet":
            _write_parquet(labelled, partial)
        else:
            with partial.open("w", encoding="utf-8") as stream:
                for row in label_rows(labelled):
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"out: cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(labelled: LabelledPairs, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    # Said, not inferred: a column of nulls alone would have no type.
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("prompt", messages),
            ("chosen", messages),
            ("rejected", messages),
            ("margin", pa.float32()),
            ("critical_rules", pa.list_(pa.string())),
            ("chosen_ratings", pa.list_(pa.float32())),
            ("rejected_ratings", pa.list_(pa.float32())),
            ("contradictory", pa.bool_()),
            ("agrees_with_human", pa.bool_()),
            ("category", pa.string()),
        ]
    )
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(label_rows(labelled)), schema), path)
