"""A trained model in memory: whole, or an adapter on its base, and its tokenizer."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainwright.checkpoint.model import adapters
from trainwright.checkpoint.model.tensors import read
from trainwright.config.schema import ModelParams
from trainwright.errors import ConfigError, missing_package
from trainwright.models.load import Kind, load_model, load_tokenizer
from trainwright.trained.folders import SETTINGS, Trained

_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_BY_TASK = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
_BY_ENDING = {
    "ForSequenceClassification": _BY_TASK["SEQ_CLS"],
    "ForTokenClassification": _BY_TASK["TOKEN_CLS"],
    "ForConditionalGeneration": _BY_TASK["SEQ_2_SEQ_LM"],
}
_HEADS = (".score.weight", ".classifier.weight", ".classifier.out_proj.weight")  # of classes, by their files' names


def load(trained: Trained, dtype: str | None = None, device: torch.device | None = None) -> tuple[Any, Any]:
    """Return a model, its adapter on its base where it is one, and its tokenizer; in evaluation mode.

    Args:
        trained: which.
        dtype: the weights' number format, such as bfloat16; as they are saved, or were trained, when not given.
        device: where to; the CPU when not given.

    Raises:
        ConfigError: it cannot be loaded.
    """
    kind = kind_of(trained)
    tokenizer = tokenizer_of(trained)
    model = base_of(trained, kind, tokenizer, dtype)
    if trained.is_adapter:
        model = with_adapter(model, trained.folder)
    return model.to(device or "cpu").eval(), tokenizer


def fastest_device() -> torch.device:
    """Return the device that a model computes on where nobody says: the accelerator that torch sees, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")


def tokenizer_of(trained: Trained) -> Any:
    """Return the tokenizer that was saved with a model, or with its run, or else the one that the run was begun with.

    Raises:
        ConfigError: there is none.
    """
    folder = next((one for one in (trained.folder, trained.run) if any((one / n).exists() for n in _TOKENIZER)), None)
    params = _params(trained)
    if folder is not None:
        return load_tokenizer(replace(params, model_name=str(folder), tokenizer_name=None, new_special_tokens=[]))
    if trained.config is None and not trained.is_adapter:
        raise ConfigError(
            f"'{trained.folder}' holds no tokenizer. Save it there: tokenizer.save_pretrained('{trained.folder}')."
        )
    return load_tokenizer(params if trained.config is not None else replace(params, model_name=trained.base))


def kind_of(trained: Trained) -> Kind:
    """Return the class of transformers that loads a model, or the one below an adapter, and the classes of its head.

    Raises:
        ConfigError: it is none of transformers'.
    """
    settings = _read(trained.folder / (adapters.SETTINGS if trained.is_adapter else SETTINGS))
    name = _class_of(settings, trained.folder)
    return Kind(name, _classes(trained)) if trained.is_adapter else Kind(name)


def base_of(trained: Trained, kind: Kind, tokenizer: Any, dtype: str | None = None) -> Any:
    """Return a whole model; of an adapter the one below it, with as many tokens as its tokenizer has.

    Raises:
        ConfigError: it cannot be loaded.
    """
    params = _params(trained)
    dtype = dtype or (params.torch_dtype_str if trained.is_adapter else "auto")
    params = replace(params, torch_dtype_str=dtype, load_pretrained_weights=True)
    if not trained.is_adapter:
        params = replace(params, model_name=str(trained.folder), model_revision=None, model_kwargs={})
        return load_model(params, tokenizer, kind=kind)
    model = load_model(replace(params, model_name=trained.base), tokenizer, kind=kind)
    rows = max(len(tokenizer), _embedded(trained, model))
    if rows > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(rows)  # the new rows are the adapter's
    return model


def with_adapter(model: Any, folder: Path) -> Any:
    """Return a model with the adapter of a folder, and what was trained beside it.

    Raises:
        ConfigError: peft is missing.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise missing_package("peft", "llm", "an adapter") from None
    with adapter_as_used(folder) as usable:
        adapted = peft.PeftModel.from_pretrained(model, str(usable))
    adapted.load_state_dict(read(folder, adapters.BESIDE) or {}, strict=False)
    return adapted


@contextmanager
def adapter_as_used(folder: Path) -> Iterator[Path]:
    """Give a folder with the adapter as it is used: one of a checkpoint that began as a part of the base's weights lies
    there as it was trained."""
    begun = read(folder, adapters.INITIAL)
    if begun is None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        for name in (adapters.SETTINGS, f"{adapters.FILE}.safetensors"):
            shutil.copy(folder / name, place)
        adapters.as_used(Path(place), begun)
        yield Path(place)


def _params(trained: Trained) -> ModelParams:
    return replace(trained.config.model) if trained.config is not None else ModelParams(model_name=str(trained.folder))


def _class_of(settings: dict[str, Any], folder: Path) -> str:
    """Return the class of transformers that loads a model, by its configuration or its adapter's.

    Raises:
        ConfigError: it is none of transformers'.
    """
    if "peft_type" in settings:
        return _BY_TASK.get(str(settings.get("task_type")), Kind.name)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = settings.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" not in settings:
        raise ConfigError(
            f"'{folder}' is a model of the type {kind!r}, which transformers does not know; what trained it knows how "
            "to use it (trainwright algebra eval, imitation eval, replay)."
        )
    name = next(iter(settings.get("architectures") or [""]))
    if settings.get("is_encoder_decoder"):
        return _BY_TASK["SEQ_2_SEQ_LM"]
    return next((loader for ending, loader in _BY_ENDING.items() if name.endswith(ending)), Kind.name)


def _classes(trained: Trained) -> dict[str, Any]:
    """Return how many classes an adapter's head has, and their names where the run's file gives them; nothing for a
    model without classes."""
    tensors = read(trained.folder, adapters.FILE) or {}
    head = next((tensor for name, tensor in tensors.items() if name.endswith(_HEADS)), None)
    if head is None:
        return {}
    given = trained.config.training.trainer_kwargs.get("class_names") if trained.config is not None else None
    names = dict(enumerate(given)) if given and len(given) == len(head) else None
    if names is None:
        return {"num_labels": len(head)}
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def _embedded(trained: Trained, model: Any) -> int:
    """Return for how many tokens an adapter has embeddings or outputs of its own: a multiple of 64, often; or 0."""
    layers = {id(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None}
    found = [name for name, layer in model.named_modules() if id(layer) in layers]
    names = tuple(f"{name}{wrapped}.weight" for name in found for wrapped in ("", ".base_layer"))
    tensors = read(trained.folder, adapters.FILE) or {}
    return max((len(tensor) for name, tensor in tensors.items() if name.endswith(names)), default=0)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
