"""Low-rank adapters through peft."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.config.schema import PeftParams, PeftSaveMode
from trainwright.errors import ConfigError, missing_package
from trainwright.models.inspect import holds_adapters, is_adapter


def add_adapters(
    model: nn.Module, params: PeftParams, adapter: str | None, checkpointing: bool, new_tokens: Sequence[int] = ()
) -> Any:
    """Return the model with adapters as its only trained weights: new ones, or those of a folder; rows of new tokens
    in the embeddings are trained and saved with them.

    Raises:
        ConfigError: peft is missing, or the modules named are not there.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise missing_package("peft", "llm", "training.use_peft") from None
    if params.q_lora:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    elif checkpointing:
        model.enable_input_require_grads()  # type: ignore[operator]
    try:
        if adapter is not None:
            adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
            if params.peft_save_mode is PeftSaveMode.MERGED and adapted.active_peft_config.is_prompt_learning:
                raise ConfigError(
                    f"peft.peft_save_mode: MERGED: the adapter in '{adapter}' is a prompt, which cannot be merged into "
                    "weights; use ADAPTER_ONLY or ADAPTER_AND_BASE_MODEL."
                )
            return adapted
        settings = lora_config(params)
        settings.trainable_token_indices = _rows_of(model, new_tokens, params.lora_modules_to_save or []) or None
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"peft: {str(error).splitlines()[0]}") from error


def _rows_of(model: Any, tokens: Sequence[int], whole: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of new tokens by the names of the layers that have them and are not trained as a whole."""
    layers = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    names = [name for name, part in model.named_modules() if any(part is layer for layer in layers)]
    return {name: list(tokens) for name in names if tokens and name.rpartition(".")[2] not in whole}


def lora_config(params: PeftParams) -> Any:
    """Return peft's configuration of the adapters."""
    import peft

    start: Any = {"default": True, "random": False}.get(params.lora_init_weights, params.lora_init_weights)
    return peft.LoraConfig(
        r=params.lora_r,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules=params.lora_target_modules,
        exclude_modules=params.lora_exclude_modules,
        target_parameters=params.lora_target_parameters,
        modules_to_save=params.lora_modules_to_save,
        bias=params.lora_bias,
        init_lora_weights=start,
        task_type=params.lora_task_type.removeprefix("TaskType."),
    )


def quantization(params: PeftParams) -> Any:
    """Return how the frozen weights are quantised for QLoRA (Dettmers et al. 2023), or None."""
    if not params.q_lora:
        return None
    from transformers import BitsAndBytesConfig

    if params.q_lora_bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=params.llm_int8_skip_modules)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=params.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=params.use_bnb_nested_quant,
        bnb_4bit_quant_storage=getattr(torch, params.bnb_4bit_quant_storage),
        bnb_4bit_compute_dtype=getattr(torch, params.bnb_4bit_compute_dtype),
        llm_int8_skip_modules=params.llm_int8_skip_modules,
    )


def save_merged(model: Any, folder: Path, tokenizer: Any) -> None:
    """Write the model with its adapters merged into the weights; the model itself stays as it is."""
    merged = copy.deepcopy(model).merge_and_unload()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_with_base(model: Any, folder: Path, tokenizer: Any) -> None:
    """Write the adapters, and into `base_model` the weights below them, as they were before training."""
    model.save_pretrained(folder)
    without_adapters(copy.deepcopy(model)).save_pretrained(folder / "base_model")
    tokenizer.save_pretrained(folder)


def without_adapters(model: Any) -> Any:
    """Return the model that PEFT was put around; modules trained as a whole are the original ones again."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    if model.active_peft_config.is_prompt_learning:
        return model.get_base_model()
    wrappers = [(name, part) for name, part in model.named_modules() if isinstance(part, AuxiliaryTrainingWrapper)]
    for name, wrapper in wrappers:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, wrapper.original_module)
    return model.unload()


def active(model: Any) -> list[str]:
    """Return the names of the adapters that are switched on; none where the model has no adapters."""
    if not (is_adapter(model) or holds_adapters(model)):
        return []
    names = model.active_adapters
    return list(names() if callable(names) else names)


def activate(model: Any, names: list[str]) -> None:
    """Switch to adapters by their names, and let them be trained."""
    import peft

    if len(names) == 1:
        model.set_adapter(names[0])
    else:
        (model.base_model if isinstance(model, peft.PeftModel) else model).set_adapter(names)
