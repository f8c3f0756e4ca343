"""The command prepare: everything that a machine without a network needs, in one folder.

The folder may be copied anywhere. Hub names stay as they are, since ratings are found again by
them: models lie in a hub cache of the folder's own, rows of hub data sets in a copy. Everything
else is given to the trial by its path in the folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmexp.errors import UserError
from rmexp.preferences import Pair
from rmexp.preferences.read import HUB_ROWS
from rmexp.trial.schema import TrialConfig

SCRIPT = "run.sh"
_MODEL_KEYS = ("model.name", "rater.encoder", "rater.model")
_FILE_KEYS = ("data.path", "rules.path", "rater.path", "selection.path")


@dataclass
class Prepared:
    """What was gathered.

    Attributes:
        folder: where it lies.
        moved: by config key, the path inside the folder that stands for it there.
        kept: config keys whose value holds there too, such as hub names.
        notes: what was gathered, a line each.
    """

    folder: Path
    moved: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The line to run on the other machine, from wherever the folder was copied to."""
        return f"sh {shlex.quote(str(self.folder / SCRIPT))}"


def prepare(
    config: TrialConfig, folder: Path, words: Sequence[str], swept: Mapping[str, Any]
) -> Prepared:
    """Gather models, data, rules, tokens and ratings of a trial or a sweep.

    Args:
        config: the trial, or what a sweep's trials share.
        folder: made here.
        words: the command line that the config came from.
        swept: the searched keys; empty for a single trial.

    Raises:
        UserError: the folder is taken, something is missing, or a searched key chooses between
            things that would have to be gathered.
    """
    from rmexp.trial import assembly

    assembly.check_before_anything_heavy(config)
    if folder.exists():
        raise UserError(f"prepare: {folder} exists already; give a new folder")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"prepare: cannot make {folder}: {error.strerror}") from error
    found = Prepared(folder)
    try:
        with _hub_rows_kept(folder / "hub_rows"):
            _gather_files(config, found)
            _gather_models(config, found)
            _refuse_searched(swept, [*found.moved, *found.kept])
            pairs = _read_all(config, found)
        _gather_tokens(config, pairs, found)
        _gather_ratings(config, found)
        _write_script(found, words, "sweep" if swept else "train")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return found


def _gather_files(config: TrialConfig, found: Prepared) -> None:
    keys = [*_FILE_KEYS, *(f"evaluation.suites.{name}.path" for name in config.evaluation.suites)]
    keys += [f"evaluation.suites.{n}.prior" for n in config.evaluation.suites]
    for key in keys:
        value = _value(config, key)
        if value is None or (key.endswith(".prior") and value == "hub"):
            continue
        source = Path(value).expanduser()
        if not source.exists():
            raise UserError(f"{key}: no such file or folder: {source}")
        found.moved[key] = _copy(source, found.folder, f"files/{key}/{source.resolve().name}")
        found.notes.append(f"{key}: {source}")


def _gather_models(config: TrialConfig, found: Prepared) -> None:
    from rmexp.backbone.sources import resolve_model

    # What is served elsewhere is no file, and a causal rater measures relevance itself.
    needless = {"openai": "rater.model", "causal_lm": "rater.encoder"}.get(config.rater.kind)
    if config.selection.strategy == "adapter" and needless == "rater.encoder":
        needless = None  # the adapter needs it
    copied: dict[Path, str] = {}
    for key in _MODEL_KEYS:
        name = _value(config, key)
        if name is None or key == needless:
            continue
        source = resolve_model(name, Path(config.cache_dir))
        if isinstance(source, str):
            _copy_hub_model(source, key, found.folder / "hub")
            found.kept.append(key)
        else:
            source = source.resolve()
            if source not in copied:
                copied[source] = _copy(source, found.folder, f"models/{len(copied)}/{source.name}")
            found.moved[key] = copied[source]
        found.notes.append(f"{key}: {name}")


def _read_all(config: TrialConfig, found: Prepared) -> list[Pair]:
    """Read data and suites as a trial does, which keeps rows of the hub; the pairs it tokenises."""
    from rmexp.trial import reading

    data = reading.read_pairs(config.data)
    if config.data.source == "hub":
        found.kept += [key for key in ("data.name",) if config.data.path is None]
    found.notes.append(f"data: {data.report}")
    for name, suite in config.evaluation.suites.items():
        reading.suite(suite)
        found.notes.append(f"evaluation.suites.{name}: {suite.kind}")
    splits = reading.split_pairs(data.pairs, config.data.split)
    return [*splits.train[: config.data.train_limit], *splits.validation]


def _gather_tokens(config: TrialConfig, pairs: Sequence[Pair], found: Prepared) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from rmexp.backbone.load import hub_arguments, load_tokenizer
    from rmexp.backbone.sources import resolve_model
    from rmexp.backbone.text import TextTemplate
    from rmexp.backbone.tokens import TokenStore

    path = resolve_model(config.model.name, Path(config.cache_dir))
    described = AutoConfig.from_pretrained(**hub_arguments(path))
    with torch.device("meta"):  # its classes alone tell how texts are read, without weights
        model = AutoModelForSequenceClassification.from_config(described)
    template = TextTemplate(
        load_tokenizer(path, int(described.get_text_config().vocab_size)),
        name=config.model.template,
        max_length=config.model.max_length,
        causal=hasattr(model, "score"),
    )
    store = TokenStore(template, found.folder / "cache")
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    store.tokens(prompts, [text for p in pairs for text in (p.response_a, p.response_b)])
    found.notes.append(f"tokens: {store.tokenised} texts")


def _gather_ratings(config: TrialConfig, found: Prepared) -> None:
    from rmexp.rating.maintenance import copy_store
    from rmexp.rating.store import RatingStore

    source = Path(config.cache_dir) / "ratings"
    if not source.is_dir():
        found.notes.append("ratings: none; the other machine rates, unless 'rmexp rate' runs first")
        return
    with RatingStore(source) as store:
        copied = copy_store(store, found.folder / "cache" / "ratings")
    found.notes.append(f"ratings: {copied}")


def _write_script(found: Prepared, words: Sequence[str], command: str) -> None:
    """The paths come last, so that they win; ``++`` since a group may not name every key."""
    paths = {**found.moved, "cache_dir": "cache"}
    moved = [f"\"++{key}='$here/{path}'\"" for key, path in paths.items()]
    lines = [
        "#!/bin/sh",
        "# Run this on a machine without a network; further KEY=VALUE may follow.",
        'here=$(cd "$(dirname "$0")" && pwd)',
        'export HF_HUB_OFFLINE=1 HF_HUB_CACHE="$here/hub" RMEXP_HUB_ROWS="$here/hub_rows"',
        'export WANDB_MODE="${WANDB_MODE:-offline}"',
        " ".join(["exec ${RMEXP:-rmexp}", command, shlex.join(words), *moved, '"$@"']),
    ]
    script = found.folder / SCRIPT
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o755)


def _refuse_searched(swept: Mapping[str, Any], gathered: Sequence[str]) -> None:
    for key in swept:
        chosen = [g for g in gathered if g == key or g.startswith(f"{key}.")]
        if chosen:
            raise UserError(
                f"prepare: the sweep searches {key}, but {chosen[0]} is gathered once; fix it, "
                "and prepare a folder for each value"
            )


def _value(config: TrialConfig, key: str) -> str | None:
    """The value of a dotted key, None where the config's kind has none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    return value


def _copy(source: Path, folder: Path, name: str) -> str:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    except (OSError, shutil.Error) as error:
        raise UserError(f"prepare: cannot copy {source}: {error}") from error
    return name


def _copy_hub_model(name: str, key: str, hub: Path) -> None:
    """Bring a model into the user's hub cache, where it is not yet, and copy it from there."""
    from huggingface_hub import snapshot_download

    from rmexp.backbone.load import HUB_FILES

    repository, _, revision = name.partition("@")
    try:
        snapshot = snapshot_download(
            repository, revision=revision or None, allow_patterns=HUB_FILES
        )
    except Exception as error:  # several kinds: no network, no such name, gated
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{key}: cannot get {name} from the hub: {first}") from error
    cached = Path(snapshot).parents[1]
    if not (hub / cached.name).exists():
        # Its snapshots are links into its own blobs.
        shutil.copytree(cached, hub / cached.name, symlinks=True)


@contextmanager
def _hub_rows_kept(folder: Path) -> Iterator[None]:
    before = os.environ.get(HUB_ROWS)
    os.environ[HUB_ROWS] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[HUB_ROWS]
        else:
            os.environ[HUB_ROWS] = before
