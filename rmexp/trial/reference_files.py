"""RewardBench's own files of an evaluation: where they go, and what they say of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.trial.record import FILE_NAME, MODEL, TrialRecord

if TYPE_CHECKING:
    from rmexp.evaluation.sets import SetResult

# The suites that the reference has files for, and whose they are.
BENCHMARKS = {
    "rewardbench": "rewardbench",
    "rewardbench2": "rewardbench2",
    "prior_sets": "rewardbench",
}


@dataclass(frozen=True)
class ReferenceFiles:
    """The files of one evaluation.

    Attributes:
        directory: holds the benchmarks' folders.
        model: what the files say of it: a hub name, a class, or the whole path of a folder, which
            no other model has.
        name: of the files, without their ending.
        custom: whether the model is of the user's own class.
    """

    directory: Path
    model: str
    name: str
    custom: bool

    def write(self, result: SetResult) -> list[Path]:
        """Write them; their paths.

        Of the template they say ``tokenizer`` where it is the model's own, else the name of ours;
        ``none`` of a class, which may have any.

        Raises:
            UserError: they cannot be written, or another model's have come to lie there.
        """
        from rmexp.evaluation.preferences import PreferenceEvaluation
        from rmexp.evaluation.result_files import write_result_files

        template = "none" if result.scored is None else str(result.scored["template"])
        assert not isinstance(result.detail, PreferenceEvaluation)
        return write_result_files(
            result.detail,
            self.directory,
            model=self.model,
            name=self.name,
            model_type="Custom Classifier" if self.custom else "Seq. Classifier",
            chat_template="tokenizer" if template == "chat" else template,
        )


def planned(
    directory: str | None,
    kind: str,
    path: str | None,
    target: str | None,
    options: Mapping[str, Any],
) -> ReferenceFiles | None:
    """The files that an evaluation is going to write; None where it writes none.

    A model of a study's trial goes by study and trial, another folder by its path.

    Args:
        directory: ``results_dir``.
        kind: of the suite.
        path: folder of a model, or a hub name.
        target: a scorer's class, instead.
        options: keyword arguments of the class.

    Raises:
        UserError: another model's files lie there, which is told before anything is scored.
    """
    from rmexp.evaluation.result_files import check_result_files, file_name

    if directory is None or kind not in BENCHMARKS:
        return None
    if path is None:
        said = f" {json.dumps(options, sort_keys=True, default=str)}" if options else ""
        model, name = f"{target}{said}", file_name(str(target))
    elif Path(path).is_dir():
        model = str(Path(path).resolve())
        name = _of_trial(Path(model)) or file_name(model)
    else:
        model, name = path, file_name(path)
    check_result_files(Path(directory), BENCHMARKS[kind], name, model)
    return ReferenceFiles(Path(directory), model, name, custom=path is None)


def _of_trial(folder: Path) -> str:
    """STUDY/0003 for the model of a study's trial, STUDY/rerun-0003-1; empty for any other."""
    home = folder.parent if folder.name == MODEL else folder
    if not (home / FILE_NAME).is_file():
        return ""
    identity = TrialRecord.read(home).identity
    if identity.study is None:
        return ""
    kind = "" if identity.job_type == "trial" else f"{identity.job_type}-"
    return f"{identity.study}/{kind}{home.name}"
