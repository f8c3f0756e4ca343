"""Loading a backbone with a head of one number, whole or with an adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmexp.backbone.attention import use_short_rows
from rmexp.backbone.classifier import Classifier, head_names, layers_of
from rmexp.backbone.first_token import read_first_token_only
from rmexp.backbone.options import PeftOptions, Precision
from rmexp.backbone.quantised import check_qlora, qlora_arguments
from rmexp.backbone.quiet import quiet_transformers
from rmexp.backbone.text import choose_pad_token
from rmexp.errors import UserError


def load_sequence_classifier(
    path: Path | str,
    *,
    precision: Precision = "32",
    seed: int,
    peft: PeftOptions = PeftOptions(),  # noqa: B008 (frozen)
    labels: int = 1,
    to_score: bool = False,
) -> Classifier:
    """Load a model with a head of one logit, or several, and say what of it is trained.

    A head that the checkpoint lacks is drawn from the seed alone, so nothing that ran before
    moves it; one that it holds is kept. The head computes in float32 whatever the dtype. Dropout
    is off: Bradley-Terry compares two scores, and noise on either is noise on the label.

    Args:
        path: a folder or hub name (``owner/name``, perhaps ``@revision``).
        precision: 32, or bf16: products in bfloat16, frozen weights kept in it; weights that are
            trained stay in float32, since small updates round to nothing in bfloat16.
        seed: for the head and the adapters.
        peft: which weights are trained; the others are frozen.
        labels: logits of the head.
        to_score: refuse a checkpoint without its head: nothing will train it.

    Raises:
        UserError: the model cannot be loaded, has another head, is quantised, or lacks weights.
    """
    frozen_low = precision == "bf16" and peft.kind != "full"
    dtype = torch.bfloat16 if frozen_low else torch.float32
    if peft.kind == "qlora":
        check_qlora()
    model, tokenizer, drawn = _load(path, dtype, seed, labels, quantise=peft.kind == "qlora")
    if to_score and drawn:
        raise UserError(
            f"{path} lacks {len(drawn)} weights behind its layers, first {drawn[0]}, so scores "
            "would be random: train it first"
        )
    classifier = Classifier(
        model, tokenizer, causal=hasattr(model, "score"), peft=peft, autocast=precision == "bf16"
    )
    _choose_trained(classifier, seed, drawn)
    for weight in classifier.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    _ready(classifier)
    return classifier


def load_adapter(path: Path, base: Path | str, *, precision: Precision = "32") -> Classifier:
    """Load a saved adapter with its head on its base model, to score with.

    Raises:
        UserError: the base cannot be loaded, or neither it nor the adapter holds the head, or the
            pooler before it.
    """
    from peft import PeftModel, load_peft_weights

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    trunk, _, drawn = _load(base, dtype, seed=0)
    causal = hasattr(trunk, "score")
    tokenizer = load_tokenizer(path, int(trunk.config.get_text_config().vocab_size))
    with quiet_transformers(), _told_as_user_error(path):
        model = PeftModel.from_pretrained(trunk, str(path))
    loaded = Classifier(
        model, tokenizer, causal, PeftOptions(kind="lora"), autocast=precision == "bf16"
    )
    held = tuple(load_peft_weights(str(path), device="cpu"))
    lacking = [name for name in drawn if not any(key.endswith(f".{name}") for key in held)]
    if lacking:
        raise UserError(
            f"{path}: neither the adapter nor its base {base} holds {lacking[0]}, so scores would "
            "be random; train with it among peft's modules_to_save"
        )
    _ready(loaded)
    return loaded


def adapter_folder(path: Path | str) -> Path | None:
    """The folder of an adapter, fetched where it is a hub name; None where it is no adapter.

    Raises:
        UserError: it is one that cannot be fetched.
    """
    if Path(path).is_dir():
        return Path(path) if (Path(path) / "adapter_config.json").is_file() else None
    from huggingface_hub import snapshot_download
    from transformers.utils.peft_utils import find_adapter_config_file

    where = hub_arguments(path)
    name, revision = where["pretrained_model_name_or_path"], where.get("revision")
    with quiet_transformers(), _told_as_user_error(path):
        if find_adapter_config_file(name, revision=revision) is None:
            return None
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))


def is_classifier(path: Path | str) -> bool:
    """Whether a checkpoint says that it has a score head.

    Raises:
        UserError: there is no checkpoint.
    """
    from transformers import AutoConfig

    with quiet_transformers(), _told_as_user_error(path):
        described = AutoConfig.from_pretrained(**hub_arguments(path))
    return any("ForSequenceClassification" in name for name in described.architectures or ())


def replica(classifier: Classifier, device: str) -> Classifier:
    """The same network on another device, to score with."""
    model = copy.deepcopy(classifier.model).to(device)
    made = replace(classifier, model=model)
    for module in made.inner.modules():
        # A copied closure would still compute with the original's weights.
        vars(module).pop("forward", None)
    _keep_head_in_float32(made)
    read_first_token_only(made)
    return made


def _load(
    path: Path | str, dtype: torch.dtype, seed: int, labels: int = 1, quantise: bool = False
) -> tuple[Any, Any, list[str]]:
    """Model, tokenizer, and the names of weights drawn in place of ones that are not there."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"{path} is an adapter: export it merged before training on from it")
    where = hub_arguments(path)
    with quiet_transformers(), _told_as_user_error(path):
        config = AutoConfig.from_pretrained(**where)
        classes = " ".join(config.architectures or ())
        if "ForSequenceClassification" in classes and config.num_labels != labels:
            raise UserError(
                f"{path} is a classifier of {config.num_labels} labels: "
                + ("a reward model needs one" if labels == 1 else f"{labels} are needed here")
            )
        if getattr(config, "quantization_config", None):
            raise UserError(f"{path} holds quantised weights: give the model in full precision")
        _switch_dropout_off(config)
        tokenizer = load_tokenizer(path, int(config.get_text_config().vocab_size))
        config.num_labels = labels
        config.problem_type = "regression" if labels == 1 else "multi_label_classification"
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                **where,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **(qlora_arguments("score") if quantise else {}),
            )
    drawn = _draw_missing_head(model, report["missing_keys"], seed, path)
    use_short_rows(model)
    return model, tokenizer, drawn


# Weights are only ever read as safetensors.
HUB_FILES = ["*.safetensors*", "*.json", "*.txt", "*.model", "*.jinja"]


def load_tokenizer(path: Path | str, vocabulary: int) -> Any:
    """The tokenizer of a model, padding on the right with a token that ends no text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**hub_arguments(path))
    choose_pad_token(tokenizer, vocabulary)
    tokenizer.padding_side = "right"
    return tokenizer


def hub_arguments(path: Path | str) -> dict[str, str]:
    """``from_pretrained`` arguments of a folder, or of a hub name with its revision."""
    name, _, revision = str(path).partition("@")
    if revision and not Path(path).exists():
        return {"pretrained_model_name_or_path": name, "revision": revision}
    return {"pretrained_model_name_or_path": str(path)}


def _ready(classifier: Classifier) -> None:
    _keep_head_in_float32(classifier)
    if classifier.autocast:
        for module in classifier.model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                # Else peft copies every layer's input to float32, which autocast casts back.
                module.cast_input_dtype_enabled = False
    read_first_token_only(classifier)


def _keep_head_in_float32(classifier: Classifier) -> None:
    """Hold the head's weights in float32 and compute it outside autocast.

    Only after peft has wrapped the head: it copies modules, and a copy would call the original.
    A logit in bfloat16 has 8 bits: two responses of like quality would tie.
    """
    for name in head_names(classifier.inner):
        child = getattr(classifier.inner, name)
        child.float()
        child.forward = _in_float32(child.forward)


def _in_float32(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float(), *args, **kwargs)

    return run


def _choose_trained(classifier: Classifier, seed: int, drawn: Iterable[str]) -> None:
    options, model = classifier.peft, classifier.model
    if options.kind == "full":
        return
    if options.adapts:
        from peft import LoraConfig, TaskType, get_peft_model

        targets = options.targets
        # Without this what was drawn would be random after loading (trl #578, peft #1070).
        saved = head_names(model)
        if any(".pooler." in name for name in drawn):
            saved.append("pooler")
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            modules_to_save=saved,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                classifier.model = get_peft_model(model, config)
            except ValueError as error:
                raise UserError(f"peft.targets={targets}: {_first_line(error)}") from None
        return
    model.requires_grad_(False)
    for module in _behind_layers(model):
        module.requires_grad_(True)
    if options.kind == "last_k":
        layers = layers_of(model)
        if options.last_k > len(layers):
            raise UserError(f"peft.last_k={options.last_k}: this model has {len(layers)} layers")
        for layer in layers[-options.last_k :]:
            layer.requires_grad_(True)


def _behind_layers(model: Any) -> Iterable[nn.Module]:
    """The head, and an encoder's pooler: all that a frozen trunk of layers leaves to train."""
    for name in head_names(model):
        yield getattr(model, name)
    pooler = getattr(getattr(model, model.base_model_prefix), "pooler", None)
    if isinstance(pooler, nn.Module):
        yield pooler


def _draw_missing_head(
    model: Any, missing: Iterable[str], seed: int, path: Path | str
) -> list[str]:
    behind = {id(p) for module in _behind_layers(model) for p in module.parameters()}
    parameters = dict(model.named_parameters())
    lacking = sorted(n for n in missing if n in parameters and id(parameters[n]) not in behind)
    if lacking:
        raise UserError(f"{path} lacks {len(lacking)} weights of its trunk, first {lacking[0]}")
    generator = torch.Generator().manual_seed(seed)
    spread = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    drawn = sorted(n for n in missing if n in parameters)
    for name in drawn:
        weight = parameters[name]
        with torch.no_grad():
            if weight.ndim < 2:
                weight.zero_()
            else:
                fresh = torch.empty(weight.shape).normal_(0.0, spread, generator=generator)
                weight.copy_(fresh)
    return drawn


def _switch_dropout_off(config: Any) -> None:
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for name, value in list(vars(part).items()):
            if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
                setattr(part, name, 0.0)


class _told_as_user_error:
    def __init__(self, path: Path | str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, UserError):
            raise UserError(f"model {self.path} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
