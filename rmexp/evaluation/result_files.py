"""Result files in the reference's layout, for the tools that read leaderboards.

``eval-set/MODEL.json`` holds the subset scores, ``eval-set-scores/MODEL.json`` the scores of every
row, both with sorted keys and an indent of 4. Those of the prior sets lie in ``pref-sets`` and
``pref-sets-scores``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from rmexp.errors import UserError


class ReferenceResult(Protocol):
    """A result of RewardBench 1 or 2."""

    def reference_files(self) -> dict[str, dict[str, Any]]:
        """Contents by folder: subset scores, and per-row scores by column."""


def write_result_files(
    result: ReferenceResult,
    directory: Path,
    *,
    model: str,
    model_type: str = "Seq. Classifier",
    chat_template: str = "tokenizer",
) -> list[Path]:
    """Write the files, each atomically.

    Args:
        result: of RewardBench 1 or 2.
        directory: gets ``eval-set/`` and ``eval-set-scores/``, or those of the prior sets.
        model: hub name or local folder; of a folder the last part names the files.
        model_type: the reference's word for the kind of model.
        chat_template: name of the template; ``tokenizer`` means the model's own.

    Returns:
        Paths of the result file and of the per-row file, of the prior sets last.

    Raises:
        UserError: a model name that cannot name a file, or a folder that cannot be written.
    """
    about = {"model": model, "model_type": model_type, "chat_template": chat_template}
    name = _file_name(model)
    written = []
    for folder, contents in result.reference_files().items():
        written.append(directory / folder / name)
        _write(written[-1], {**contents, **about})
    return written


def _file_name(model: str) -> str:
    parts = PurePosixPath(model).parts
    # A hub name is NAME or OWNER/NAME; anything else is a folder, which must not lead elsewhere.
    if len(parts) > 2 or any(part in ("/", "..") for part in parts):
        parts = parts[-1:]
    if not parts or parts[-1] in ("/", ".."):
        raise UserError(f"model: '{model}' cannot name a result file")
    return "/".join(parts) + ".json"


def _write(path: Path, plain: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # NaN is no JSON: allow_nan=False turns a slip into an error rather than a broken file.
        partial.write_text(json.dumps(plain, indent=4, sort_keys=True, allow_nan=False), "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write it: {error.strerror}") from error
