"""What a model's files say of it, read before anything is loaded: light, and quick to refuse."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from rmexp.backbone.sources import MINILM, NAMES, SMOLLM2, check_model_name, packaged_path
from rmexp.errors import UserError

_TIMEOUT = 5.0
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Models that are built on first use, as they will be.
_BUILT: dict[str, dict[str, Any]] = {
    SMOLLM2.name: {"num_hidden_layers": 30, "max_position_embeddings": 8192},
    "tiny": {"num_hidden_layers": 2, "max_position_embeddings": 2048},
    "tiny_encoder": {"num_hidden_layers": 2, "max_position_embeddings": 1024},
}


def model_description(name: str, key: str) -> dict[str, Any]:
    """The content of a model's ``config.json``; nothing for the folder of an adapter.

    A hub name is looked up in the local hub cache, else asked for once: no retries. Where the
    hub cannot be reached, what is cached is used without asking again.

    Args:
        name: as ``resolve_model`` takes it.
        key: the config key that names the model, for messages.

    Raises:
        UserError: naming the key: nothing of that name is there, or its files cannot be used.
    """
    check_model_name(name, key)
    if name == MINILM.name:
        return _read(packaged_path(MINILM).parent / "config.json", key)
    if name in _BUILT:
        return _BUILT[name]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _hub_description(name, key)
    config = folder / "config.json"
    return _read(config, key) if config.is_file() else {}


def check_reward_backbone(
    name: str, *, max_length: int | None = None, last_k: int | None = None
) -> None:
    """Tell at once what a reward model cannot be trained from.

    Args:
        name: of the model.
        max_length: tokens of a text.
        last_k: layers to be trained from the top, None where it does not matter.

    Raises:
        UserError: naming the key.
    """
    plain = model_description(name, "model.name")
    folder = Path(name).expanduser()
    if name not in NAMES and folder.is_dir():
        if not plain:
            raise UserError(
                f"model.name: {folder} is an adapter: export it merged before training on from it"
            )
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"model.name: {folder} has no weights in a .safetensors file")
    if any("ForSequenceClassification" in a for a in plain.get("architectures") or ()):
        labels = len(plain["id2label"]) if plain.get("id2label") else plain.get("num_labels", 2)
        if labels != 1:
            raise UserError(
                f"model.name: {name} is a classifier of {labels} labels: a reward model needs one"
            )
    if plain.get("quantization_config"):
        raise UserError(
            f"model.name: {name} holds quantised weights: give the model in full precision"
        )
    text = plain.get("text_config") or plain
    layers = next((text[n] for n in _LAYERS if isinstance(text.get(n), int)), None)
    if last_k is not None and layers is not None and last_k > layers:
        raise UserError(
            f"peft.last_k={last_k}: this model has {layers} layers; use {layers} or less"
        )
    limit = text.get("max_position_embeddings")
    if text.get("model_type") in ("roberta", "xlm-roberta", "camembert") and limit:
        limit -= 2  # their positions begin behind the pad id
    if max_length is not None and isinstance(limit, int) and max_length > limit:
        raise UserError(
            f"model.max_length={max_length}: this model has positions for {limit} tokens; "
            f"use {limit} or less"
        )


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {path} cannot be read: {error}") from None
    if not isinstance(plain, dict):
        raise UserError(f"{key}: {path} holds no JSON object")
    return plain


@functools.cache
def _hub_description(name: str, key: str) -> dict[str, Any]:
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = name.partition("@")
    cached = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    offline = bool(constants.HF_HUB_OFFLINE)
    if isinstance(cached, str):
        if not offline and _unreachable(constants.ENDPOINT):
            # Else transformers asks the hub for each file, five times.
            os.environ["HF_HUB_OFFLINE"] = "1"
            constants.HF_HUB_OFFLINE = True
        return _read(Path(cached), key)
    if offline:
        raise UserError(
            f"{key}: {name} is not in the local hub cache, and HF_HUB_OFFLINE is set; "
            "give a local folder, or unset it"
        )
    return _asked(repository, revision or "main", key)


def _unreachable(endpoint: str) -> bool:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=_TIMEOUT)
    except Exception:  # whatever the HTTP client of this version raises
        return True
    return False


def _asked(repository: str, revision: str, key: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    url = hf_hub_url(repository, "config.json", revision=revision)
    try:
        answer = get_session().get(url, headers=build_hf_headers(), timeout=_TIMEOUT)
    except Exception as error:  # whatever the HTTP client of this version raises
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{key}: {repository} is not in the local hub cache, and the hub cannot be reached "
            f"({reason}); give a local folder, or fetch the model where there is a network"
        ) from None
    if answer.status_code in (401, 403, 404):
        raise UserError(
            f"{key}: the hub shows no {repository} at revision {revision} with a config.json; "
            "check the name, or log in (hf auth login) where it is private or gated"
        )
    try:
        plain = answer.json()
    except ValueError:
        plain = None
    if answer.status_code != 200 or not isinstance(plain, dict):
        raise UserError(
            f"{key}: the hub's answer for {repository} cannot be used "
            f"(status {answer.status_code}); try again, or give a local folder"
        )
    return plain
