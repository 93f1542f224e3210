"""Low-rank adapters through peft."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainwright.compat import goes_past_hooks
from trainwright.errors import ConfigError, did_you_mean, missing_package
from trainwright.models.inspect import holds_adapters, is_adapter

if TYPE_CHECKING:
    from trainwright.config.schema import PeftParams

_ALL_LINEAR = "all-linear"
_ROUNDING = 1e-4  # of a decomposition in float32


def add_adapters(
    model: nn.Module, params: PeftParams, adapter: str | None, checkpointing: bool, new_tokens: Sequence[int] = ()
) -> Any:
    """Return the model with adapters as its only trained weights: new ones, or those of a folder; rows of new tokens
    in the embeddings are trained and saved with them.

    Raises:
        ConfigError: peft is missing, the modules named are not there, or cannot be initialised as asked.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise missing_package("peft", "llm", "training.use_peft") from None
    from trainwright.config.schema import PeftSaveMode

    if adapter is None:
        check_names(model, params)
    if params.q_lora:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    elif checkpointing:
        model.enable_input_require_grads()  # type: ignore[operator]  # a PreTrainedModel
    try:
        if adapter is not None:
            adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
            if params.peft_save_mode is PeftSaveMode.MERGED and adapted.active_peft_config.is_prompt_learning:
                raise ConfigError(
                    f"peft.peft_save_mode: MERGED: the adapter in '{adapter}' is a prompt, which cannot be merged into "
                    "weights; use ADAPTER_ONLY or ADAPTER_AND_BASE_MODEL."
                )
            return adapted
        settings = lora_config(params, model)
        settings.trainable_token_indices = _rows_of(model, new_tokens, params.lora_modules_to_save or []) or None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"peft: {str(error).splitlines()[0]}") from error
    adapted = attached(model, settings)
    if changes_base(settings.init_lora_weights):
        _check_layers(adapted, settings.init_lora_weights)
    keep_initial(adapted)
    return adapted


def settings_of(adapter: str) -> Any:
    """Return peft's configuration of an adapter that was saved, to be trained further.

    Raises:
        ConfigError: there is none.
    """
    import peft

    try:
        settings = peft.PeftConfig.from_pretrained(adapter)
    except ValueError as error:
        raise ConfigError(f"model.adapter_model: {str(error).splitlines()[0]}") from error
    settings.inference_mode = False
    return settings


def attached(model: nn.Module, settings: Any) -> Any:
    """Return the model with new adapters.

    Raises:
        ConfigError: peft finds no layers for them, or none that it can adapt.
    """
    import peft

    try:
        return peft.get_peft_model(model, settings)
    except re.error as error:
        raise ConfigError(f"peft: {settings.target_modules!r} is no pattern of layers: {error}.") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"peft: {str(error).splitlines()[0]}") from error


def check_names(model: nn.Module, params: PeftParams) -> None:
    """Raise a ConfigError for a name of layers that matches none: peft says nothing where another one does."""
    layers = [path for path, _ in model.named_modules()]
    targets = params.lora_target_modules if isinstance(params.lora_target_modules, list) else []
    for key, names in (("lora_target_modules", targets), ("lora_modules_to_save", params.lora_modules_to_save or [])):
        for name in names:
            if name.lower() != _ALL_LINEAR and not any(path == name or path.endswith(f".{name}") for path in layers):
                near = did_you_mean(name, {path.rpartition(".")[2] for path in layers})
                raise ConfigError(f"peft.{key}: the model has no layer '{name}'.{near}")


def _rows_of(model: Any, tokens: Sequence[int], whole: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of new tokens by the names of the layers that have them and are not trained as a whole."""
    layers = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    names = [name for name, part in model.named_modules() if any(part is layer for layer in layers)]
    return {name: list(tokens) for name in names if tokens and name.rpartition(".")[2] not in whole}


def lora_config(params: PeftParams, model: Any = None) -> Any:
    """Return peft's configuration of the adapters; for a model, which `all-linear` beside other names needs."""
    import peft

    start = str(params.lora_init_weights).lower()
    return peft.LoraConfig(
        r=params.lora_r,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        use_rslora=params.use_rslora,
        use_dora=params.use_dora,
        rank_pattern=dict(params.rank_pattern),
        alpha_pattern=dict(params.alpha_pattern),
        target_modules=_targets(params.lora_target_modules, model),
        exclude_modules=params.lora_exclude_modules,
        target_parameters=params.lora_target_parameters,
        modules_to_save=params.lora_modules_to_save,
        bias=params.lora_bias,
        init_lora_weights={"default": True, "true": True, "random": False, "false": False}.get(start, start),
        task_type=params.lora_task_type.removeprefix("TaskType."),
    )


def _targets(given: list[str] | str | None, model: Any) -> list[str] | str | None:
    """Return the layers that get adapters as peft takes them; `all-linear` may stand in a list, beside others."""
    names = given if isinstance(given, list) else []
    if not any(name.lower() == _ALL_LINEAR for name in names):
        return given
    others = [name for name in names if name.lower() != _ALL_LINEAR]
    if not others:
        return _ALL_LINEAR
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D) and part is not head]
    return [*linear, *others]


def changes_base(start: Any) -> bool:
    """Whether adapters that begin so take what they begin with out of the base's weights (PiSSA, arXiv:2404.02948;
    OLoRA, arXiv:2406.01775; CorDA; LoRA-GA)."""
    return str(start).lower().startswith(("pissa", "olora", "corda", "lora_ga"))


def keeps_base(params: PeftParams) -> bool:
    """Whether the model without its new adapters is the base as it was, before training and after."""
    return not changes_base(params.lora_init_weights) and params.lora_bias == "none"


def _check_layers(model: Any, start: Any) -> None:
    """See that adapters that begin as a part of the base's weights fit their layers, where peft does not look.

    Raises:
        ConfigError: the layer has no part of that rank, or OLoRA is to begin from a Conv1D.
    """
    for path, part in model.named_modules():
        name = path.removeprefix("base_model.model.")
        if start == "olora" and getattr(part, "fan_in_fan_out", False):
            raise ConfigError(
                f"peft.lora_init_weights: olora does not fit {name}, a Conv1D, whose weights peft reads the wrong way "
                "round; use pissa."
            )
        for adapter, first in getattr(part, "lora_A", {}).items():
            if len(first.weight) != part.r[adapter]:
                raise ConfigError(
                    f"peft.lora_init_weights: {start} begins with a part of rank {part.r[adapter]} of {name}, whose "
                    f"weights have rank {len(first.weight)}; lower lora_r or rank_pattern."
                )


def keep_initial(model: Any) -> None:
    """Keep, in the host's memory, what adapters begin with that was taken out of the base's weights: with it they are
    saved as what training has changed (`checkpoint/model/adapters.py`). Nothing is known of adapters that were trained
    before, and of those that began with data; they are saved as they are."""
    if not is_adapter(model) or "initial_adapters" in vars(model):
        return
    from peft import get_peft_model_state_dict

    model.initial_adapters = {
        name: {
            key: tensor.detach().to("cpu", copy=True)
            for key, tensor in get_peft_model_state_dict(model, adapter_name=name).items()
            if ".lora_" in key and "magnitude" not in key
        }
        for name, config in model.peft_config.items()
        if changes_base(getattr(config, "init_lora_weights", None)) and _begins(model, name, config.init_lora_weights)
    }


@torch.no_grad()
def _begins(model: Any, name: str, start: str) -> bool:
    """Whether no adapter was trained yet: of OLoRA B^T B is the identity then, and of PiSSA it is A A^T."""
    known = start.lower().startswith(("olora", "pissa"))
    for part in model.modules() if known else ():
        if name in getattr(part, "lora_B", {}):
            first, second = (one[name].weight.float() for one in (part.lora_A, part.lora_B))
            own = first @ first.T if start.lower() != "olora" else torch.eye(len(first), device=first.device)
            rounding = max(_ROUNDING, torch.finfo(part.get_base_layer().weight.dtype).eps)
            if (second.T @ second - own).norm() > rounding * own.norm():
                return False
    return known


def initial_of(model: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return what `keep_initial` kept, by the adapters' names."""
    kept = vars(model).get("initial_adapters", {})
    return {name: begun for name, begun in kept.items() if name in model.peft_config}


def move_base(model: Any, name: str, begun: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Let the weights below an adapter be those from which another beginning was taken out, in place.

    Args:
        model: a `PeftModel`.
        name: of the adapter.
        begun: what was taken out of the weights as they are.
        other: what is to be out of them.
    """
    for path, layer in model.named_modules():
        parts = [f"{path}.{part}.weight" for part in ("lora_B", "lora_A")]
        if parts[0] not in begun or all(torch.equal(begun[part], other[part]) for part in parts):
            continue
        (was_b, was_a), (new_b, new_a) = ([one[part].float() for part in parts] for one in (begun, other))
        weight = layer.get_base_layer().weight
        change = layer.scaling[name] * (was_b @ was_a - new_b @ new_a)
        change = change.T if layer.fan_in_fan_out else change
        weight.data += change.to(weight.device, weight.dtype)


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


def without_adapters(model: Any) -> Any:
    """Return the model that PEFT was put around; modules trained as a whole are the original ones again, and weights
    out of which adapters began are whole again."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, begun in initial_of(model).items():
        move_base(model, name, begun, {key: torch.zeros_like(tensor) for key, tensor in begun.items()})

    if model.active_peft_config.is_prompt_learning:
        return model.get_base_model()
    wrappers = [(name, part) for name, part in model.named_modules() if isinstance(part, AuxiliaryTrainingWrapper)]
    for name, wrapper in wrappers:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, wrapper.original_module)
    return model.unload()


def call_with_hooks(model: Any) -> None:
    """Have adapters call the model that they are in as anybody does, so that its hooks gather what is sharded."""
    if is_adapter(model) and goes_past_hooks() and not model.active_peft_config.is_prompt_learning:
        model.base_model.forward = model.base_model.model.__call__


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
