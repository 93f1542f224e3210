"""What a run will need, found out on the meta device: nothing is loaded, and nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainwright import compat
from trainwright.config import methods
from trainwright.config.reading.translate import argument_values
from trainwright.config.schema import ModelParams, PeftParams, TrainingConfig
from trainwright.data.sources.reach import ask_at_once
from trainwright.errors import ConfigError
from trainwright.models.adapters import attached, check_names, lora_config, settings_of
from trainwright.models.load import NO_DROPOUT, beside, first_line, freeze, load_tokenizer, model_config, number_format
from trainwright.objectives.linear.loss import CHUNK
from trainwright.optim.optimizers import parse_settings, state_copies
from trainwright.tasks.language.method import LanguageMethod, able_of
from trainwright.tasks.language.planning.divided import Talk, divide
from trainwright.tasks.language.text import method_by_data

_NAME = "trainwright_estimate"


@dataclass(frozen=True)
class Estimate:
    """Bytes of one process at the peak of a step, and tokens of a step.

    Attributes:
        weights: of the model, of others beside it such as a reference, and of a moving average.
        gradients: of what is trained.
        optimizer: its state.
        activations: kept by one micro-batch for its backward pass.
        logits: of the chunk that exists at a time.
        tokens: of one optimizer step, at most.
        model: of the model alone.
        average: of the moving average alone.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    tokens: int
    model: int
    average: int

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class Described:
    """A run's model as it is trained, without values.

    Attributes:
        model: with its adapters.
        base: bytes of the model without them.
        quantised: bytes that quantization saves of it.
        talk: of processes that divide its layers; None where none do, else the model is that of one of them.
    """

    model: Any
    base: int
    quantised: int
    talk: Talk | None = None


def trained_model(config: TrainingConfig, method: LanguageMethod, tensor: int = 1) -> Described:
    """Return the model that a file describes, on the meta device: frozen, with adapters, recomputing where it is to,
    and as one of `tensor` processes has it that divide its layers.

    Raises:
        ConfigError: there is none of that name, or it cannot be divided.
    """
    model = _empty(config.model, method.estimated)
    with torch.device("meta"):
        freeze(model, config.model.freeze_layers)
        quantised = saved_by_quantisation(model, config.peft) if config.peft.q_lora else 0
        base = _bytes(model) - quantised
        if config.training.use_peft:
            if config.model.adapter_model is not None:
                settings = settings_of(config.model.adapter_model)
            else:
                check_names(model, config.peft)
                settings = lora_config(config.peft, model)
            settings.init_lora_weights = True  # what they begin with takes no other room
            model = attached(model, settings)
    model.train()
    if argument_values(config.training)["activation_checkpointing"]:
        model.gradient_checkpointing_enable()
    if tensor == 1:
        return Described(model, base, quantised)
    whole, talk = _bytes(model), divide(model, tensor)
    return Described(model, base * _bytes(model) // whole, quantised, talk)


def estimate(config: TrainingConfig, rows: int, length: int, method: LanguageMethod, tensor: int = 1) -> Estimate:
    """Return what a run with micro-batches of `rows` rows, of sequences of `length` tokens each, needs in one process,
    or in one of `tensor` that divide layers."""
    values, described = argument_values(config.training), trained_model(config, method, tensor)
    model = described.model
    speaks = method.estimated == LanguageMethod.estimated
    vocabulary = len(model.get_output_embeddings().weight) if speaks else 0
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    weights = _bytes(model) - described.quantised
    if values["ema_decay"] is not None:
        average = sum(p.numel() * max(p.element_size(), 4) for p in model.parameters() if p.requires_grad)
    else:
        average = 0
    copies = state_copies(values["optim"], parse_settings(values["optim_args"]))
    micro = rows * method.sequences
    further = method.further_weights(config, described.base, weights, lambda name: _bytes(_other(config, name, tensor)))
    return Estimate(
        weights + average + further,
        trained,
        trained * copies,
        saved_bytes(model, micro, length),
        3 * min(max(CHUNK * vocabulary, 2**21), micro * length * vocabulary) * 4 if speaks else 0,
        micro * length * values["gradient_accumulation_steps"],
        weights,
        average,
    )


def _empty(params: ModelParams, kind: str = LanguageMethod.estimated, key: str = "model.model_name") -> Any:
    """Return a model as `load_model` makes it, without values, of a class of transformers.

    Args:
        params: the section of the file.
        kind: the class.
        key: of the file, by which the model is named.

    Raises:
        ConfigError: there is none of that name.
    """
    import transformers

    dtype = number_format(params)
    if params.load_pretrained_weights:
        described = _config_of(params, key)
        dtype = dtype or described.dtype
    else:
        described = model_config(params, load_tokenizer(params))
    with torch.device("meta"):
        return getattr(transformers, kind).from_config(described, dtype=dtype)


def _other(config: TrainingConfig, setting: str, tensor: int) -> Any:
    """Return the model that a setting of the method names, without values, divided as the trained one is."""
    params = beside(config.model, config.training.trainer_kwargs[setting])
    model = _empty(params, key=f"training.trainer_kwargs.{setting}")
    if tensor > 1:
        divide(model, tensor)
    return model


def _bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def saved_by_quantisation(model: Any, peft: PeftParams) -> int:
    """Return the bytes by which the dense layers, but for the output layer, become smaller."""
    head, skipped = model.get_output_embeddings(), peft.llm_int8_skip_modules or []
    weights = [
        part.weight for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and part is not head and name.rpartition(".")[2] not in skipped
    ]  # fmt: skip
    return sum(one.numel() * one.element_size() - one.numel() * peft.q_lora_bits // 8 for one in weights)


def saved_bytes(model: Any, rows: int, length: int) -> int:
    """Return the bytes that a forward pass below the head keeps for the backward pass, weights not counted."""
    from transformers import AttentionInterface, AttentionMaskInterface

    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # so that no other storage takes its place
        return tensor

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.zeros(rows, length, dtype=torch.int64, device="meta")
    AttentionInterface.register(_NAME, _kernel)
    AttentionMaskInterface.register(_NAME, lambda *given, **named: None)  # a mask would need the values of tensors
    base.set_attn_implementation(_NAME)
    with compat.meta_autocast(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        base.get_decoder()(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return sum(kept.values())


def _kernel(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[torch.Tensor, None]:
    """Attention as the fused kernels do it, which keep no weights; on the meta device torch takes another one."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, is_causal=True)[0]
    return out.transpose(1, 2), None


def _config_of(params: ModelParams, key: str) -> Any:
    from transformers import AutoConfig

    missing = ask_at_once(params.model_name)
    try:
        return AutoConfig.from_pretrained(
            params.model_name, trust_remote_code=params.trust_remote_code, revision=params.model_revision,
            **{name: value for name, value in params.model_kwargs.items() if name != NO_DROPOUT},
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key} '{params.model_name}' cannot be loaded: {missing or first_line(error)}") from error


def parts(found: Estimate) -> dict[str, int]:
    """Return the parts of an estimate by their names, in bytes."""
    return {
        "weights": found.weights, "gradients": found.gradients, "optimizer": found.optimizer,
        "activations": found.activations, "logits of a chunk": found.logits,
    }  # fmt: skip


def describe(found: Estimate) -> str:
    """Return an estimate as a table."""
    whole = {**parts(found), "in all": found.total}
    lines = [f"{name:<18} {value / 1e9:>8.3f} GB" for name, value in whole.items()]
    return "\n".join([*lines, f"{'tokens a step':<18} {found.tokens:>8} at most"])


def for_config(config: TrainingConfig) -> Estimate:
    """Return what a run needs, by its file alone: rows of `max_length` tokens.

    Raises:
        ConfigError: that is not estimated of the method's models.
    """
    method, length = method_and_length(config)
    return estimate(config, config.training.per_device_train_batch_size, length, method)


def method_and_length(config: TrainingConfig) -> tuple[LanguageMethod, int]:
    """Return the method that trains, and the tokens of a row at most.

    Raises:
        ConfigError: that is not estimated of the method's models.
    """
    for one in able_of(config.training.trainer_type):
        if not one.estimated:
            raise ConfigError(f"The memory of {one.title} is not estimated; leave out --memory.")
    kwargs = config.training.trainer_kwargs
    length = config.model.model_max_length or kwargs.get("max_length") or 1024
    named = methods.candidates(config.training.trainer_type)
    method = named[0] if len(named) == 1 and isinstance(named[0], LanguageMethod) else method_by_data(config)
    return method, length
