"""`training` of a file as arguments of our TrainingArguments; nothing here imports torch."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import fields
from typing import Any

from trainwright.args.training import TrainingArguments
from trainwright.config.params import ARGUMENTS, MixedPrecisionDtype, TrainingParams
from trainwright.config.unsupported import FSDPParams

_MOST_WORKERS = 8


def argument_values(params: TrainingParams, fsdp: FSDPParams | None = None) -> dict[str, Any]:
    """Return the keywords of TrainingArguments that a section `training` stands for, and one `fsdp`."""
    values = {name: getattr(params, name) for name in ARGUMENTS}
    dtype = params.mixed_precision_dtype
    checkpointing = params.activation_checkpointing or params.gradient_checkpointing
    values |= {
        "output_dir": params.output_dir or "output",
        "optim": values["optim"] or params.optimizer,
        "optim_args": optimizer_arguments(params),
        "warmup_steps": warmup(params),
        "max_grad_norm": values["max_grad_norm"] or 0.0,
        "bf16": bool(values["bf16"]) or (values["bf16"] is None and dtype is MixedPrecisionDtype.BF16),
        "fp16": bool(values["fp16"]) or (values["fp16"] is None and dtype is MixedPrecisionDtype.FP16),
        "torch_compile": params.torch_compile or params.compile,
        "gradient_checkpointing": params.enable_gradient_checkpointing or bool(checkpointing),
        "activation_checkpointing": params.enable_gradient_checkpointing or bool(checkpointing),
        "gradient_checkpointing_kwargs": params.gradient_checkpointing_kwargs or None,
        "torch_empty_cache_steps": params.torch_empty_cache_steps or params.empty_device_cache_steps,
        "save_strategy": save_strategy(params),
        "save_steps": params.save_steps if params.save_steps > 0 or params.save_strategy is not None else 500,
        "report_to": trackers(params),
        "full_determinism": params.full_determinism or params.use_deterministic,
        "dataloader_num_workers": workers(values["dataloader_num_workers"]),
    }
    if values["dataloader_num_workers"] == 0:
        values["dataloader_prefetch_factor"] = None
    if params.nccl_default_timeout_minutes is not None:
        values["ddp_timeout"] = int(params.nccl_default_timeout_minutes * 60)
    if values["include_num_input_tokens_seen"] is None:
        values["include_num_input_tokens_seen"] = "non_padding" if params.include_performance_metrics else "no"
    if values["remove_unused_columns"] is None:
        values["remove_unused_columns"] = True
    return values | (sharding(fsdp) if fsdp is not None and fsdp.enable_fsdp else {})


def arguments_of(params: TrainingParams) -> TrainingArguments:
    """Return the arguments that a section `training` stands for.

    Raises:
        ConfigError: values that cannot work.
    """
    return TrainingArguments(**argument_values(params))


def sharding(fsdp: FSDPParams) -> dict[str, Any]:
    """Return the keywords that a section `fsdp` stands for; what is left out there is left out here."""
    values = {
        "sharding_strategy": fsdp.sharding_strategy.value,
        "auto_wrap_policy": fsdp.auto_wrap_policy.value,
        "min_num_params": fsdp.min_num_params,
        "transformer_layer_cls_to_wrap": fsdp.transformer_layer_cls,
        "cpu_offload": fsdp.cpu_offload,
        "param_dtype": fsdp.mixed_precision,
        "reduce_dtype": fsdp.reduce_dtype or fsdp.mixed_precision,
        "reduce_gradients": fsdp.reduce_gradients,
        "shard": fsdp.shard,
        "replicate": fsdp.replicate,
        "tensor": fsdp.tensor,
    }
    return {"fsdp": True, "fsdp_config": {name: value for name, value in values.items() if value is not None}}


def optimizer_arguments(params: TrainingParams) -> str | None:
    """Return `optim_args`, with the momentum of SGD where it is given."""
    if not params.sgd_momentum:
        return params.optim_args
    momentum = f"momentum={params.sgd_momentum}"
    return f"{params.optim_args},{momentum}" if params.optim_args else momentum


def warmup(params: TrainingParams) -> float:
    """Return the steps of warm-up, or below 1 their share of the run: `warmup_steps` before `warmup_ratio`, and no more
    than the run has, so that a short trial of a long run needs no change of its own."""
    steps = params.warmup_steps or params.warmup_ratio or 0
    return min(steps, params.max_steps) if params.max_steps > 0 else steps


def save_strategy(params: TrainingParams) -> str:
    """Return when to save: as `save_strategy` says, else at epochs, or every `save_steps` unless they are 0."""
    if params.save_strategy is not None:
        return params.save_strategy
    return "epoch" if params.save_epoch else "steps" if params.save_steps > 0 else "no"


def trackers(params: TrainingParams) -> str | list[str]:
    """Return the trackers to report to; tensorboard, which is on by default, only where it is installed."""
    if params.report_to is not None:
        return params.report_to
    wanted = {"wandb": params.enable_wandb, "mlflow": params.enable_mlflow}
    chosen = [name for name, on in wanted.items() if on]
    if params.enable_tensorboard and importlib.util.find_spec("tensorboard") is not None:
        chosen.append("tensorboard")
    return chosen or "none"


def workers(number: int | str) -> int:
    """Return the number of processes that load data; 'auto' is half of the processors, at most 8."""
    if number == "auto":
        return min(_MOST_WORKERS, (os.cpu_count() or 2) // 2)
    return number if isinstance(number, int) else 0  # another text is a mistake, which the rules report


def sharding_name(argument: str) -> str | None:
    """Return what a key of `fsdp_config` is called in the section `fsdp`, where it is there."""
    name = {"param_dtype": "mixed_precision", "transformer_layer_cls_to_wrap": "transformer_layer_cls"}.get(argument)
    return name or (argument if argument in {one.name for one in fields(FSDPParams)} else None)
