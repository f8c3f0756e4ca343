"""Result files in the reference's layout, for the tools that read leaderboards.

Each benchmark has a folder, ``rewardbench`` and ``rewardbench2``. In it ``eval-set/MODEL.json``
holds the subset scores, ``eval-set-scores/MODEL.json`` the scores of every row, both with sorted
keys and an indent of 4. Those of the prior sets lie in ``pref-sets`` and ``pref-sets-scores``.
The files of a set that lacks rows lie in ``rewardbench-partial`` or ``rewardbench2-partial``, apart
from those that may be put on a leaderboard.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from rmexp.errors import UserError

PARTIAL = "-partial"
_FOLDERS = ("eval-set", "eval-set-scores", "pref-sets", "pref-sets-scores")


class ReferenceResult(Protocol):
    """A result of RewardBench 1 or 2."""

    def reference_files(self) -> dict[str, dict[str, Any]]:
        """Contents by folder, ``BENCHMARK/eval-set`` and so on: scores of subsets, and of rows."""


def write_result_files(
    result: ReferenceResult,
    directory: Path,
    *,
    model: str,
    name: str | None = None,
    model_type: str = "Seq. Classifier",
    chat_template: str = "tokenizer",
) -> list[Path]:
    """Write the files, each atomically.

    Args:
        result: of RewardBench 1 or 2.
        directory: gets the benchmark's folder, and in it ``eval-set/`` and ``eval-set-scores/``,
            or those of the prior sets.
        model: hub name or local folder.
        name: of the files, without their ending; as :func:`file_name` gives it.
        model_type: the reference's word for the kind of model.
        chat_template: name of the template; ``tokenizer`` means the model's own.

    Returns:
        Paths of the result file and of the per-row file, of the prior sets last.

    Raises:
        UserError: a model name that cannot name a file, a file of that name with another model's
            figures, or a folder that cannot be written.
    """
    about = {"model": model, "model_type": model_type, "chat_template": chat_template}
    name = name or file_name(model)
    contents = {
        directory / folder / f"{name}.json": found
        for folder, found in result.reference_files().items()
    }
    for path in contents:
        _refuse_another(path, model)
    for path, found in contents.items():
        _write(path, {**found, **about})
    return [*contents]


def file_name(model: str) -> str:
    """What a model's files are called, without their ending.

    A hub name stays as it is, NAME or OWNER/NAME. A folder goes by its whole path (below the
    working folder, by the path from there), so that two folders ``model`` have two names.

    Raises:
        UserError: a name that cannot name a file.

    >>> file_name("owner/name")
    'owner/name'
    >>> file_name("/runs/0003/model")
    'runs-0003-model'
    """
    parts = PurePosixPath(model).parts
    if len(parts) > 2 or {"/", ".."} & set(parts) or (parts and Path(model).is_dir()):
        folder, here = Path(model).resolve(), Path.cwd().resolve()
        below = folder != here and folder.is_relative_to(here)
        parts = ("-".join(folder.relative_to(here).parts if below else folder.parts[1:]),)
    if not any(parts):
        raise UserError(f"model: '{model}' cannot name a result file")
    return "/".join(parts)


def check_result_files(directory: Path, benchmark: str, name: str, model: str) -> None:
    """What :func:`write_result_files` will refuse, before anything is scored.

    Args:
        directory: as there.
        benchmark: ``rewardbench`` or ``rewardbench2``.
        name: of the files, without their ending.
        model: whose figures are to be written.

    Raises:
        UserError: a file of that name is there and tells of another model, or of none.
    """
    for mark in ("", PARTIAL):
        for folder in _FOLDERS:
            _refuse_another(directory / f"{benchmark}{mark}" / folder / f"{name}.json", model)


def _refuse_another(path: Path, model: str) -> None:
    try:
        other = json.loads(path.read_text("utf-8"))["model"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is there already and is no result file; move it, or give results_dir"
        ) from error
    if other != model:
        raise UserError(
            f"{path}: holds the figures of another model, {other}; move it, or give results_dir"
        )


def _write(path: Path, plain: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # NaN is no JSON: allow_nan=False turns a slip into an error rather than a broken file.
        partial.write_text(json.dumps(plain, indent=4, sort_keys=True, allow_nan=False), "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write it: {error.strerror}") from error
