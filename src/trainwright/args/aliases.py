"""Names of the past: accepted as keywords with a warning that gives today's name, never as fields."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any

from trainwright.errors import ConfigError, did_you_mean

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "use_legacy_prediction_loop": "",
    "overwrite_output_dir": "",
    "logging_dir": "",
    "save_safetensors": "",
    "fp16_backend": "",
    "fp16_opt_level": "",
    "half_precision_backend": "",
    "past_index": "",
    "use_mps_device": "",
    "jit_mode_eval": "",
    "use_ipex": "",
    "ray_scope": "",
    "tpu_num_cores": "",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "include_tokens_per_second": "",
    "torchdynamo": "torch_compile_backend",
    "xpu_backend": "ddp_backend",
}
_BELONGS = {
    "max_length": " It belongs to the tokenizer: tokenizer(texts, truncation=True, max_length=512).",
    "max_seq_length": " It belongs to the tokenizer: tokenizer(texts, truncation=True, max_length=512).",
    "tokenizer": " It belongs to the Trainer: Trainer(..., processing_class=tokenizer).",
}
_NOT_NEEDED = {
    "overwrite_output_dir": "a folder is never emptied; resume with train(resume_from_checkpoint=True)",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "safetensors is always used",
    "include_tokens_per_second": "train_samples_per_second and num_input_tokens_seen are always there",
}


def _group_by_length(value: Any) -> dict[str, Any]:
    return {"train_sampling_strategy": "group_by_length"} if value else {}


def _warmup_ratio(value: Any) -> dict[str, Any]:
    if value and not 0 <= value < 1:
        raise ConfigError(f"warmup_ratio={value} is no share of the run; give one from 0 to below 1, or warmup_steps.")
    return {"warmup_steps": value} if value else {}


def _include_inputs(value: Any) -> dict[str, Any]:
    return {"include_for_metrics": ["inputs"]} if value else {}


REPLACED: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "group_by_length": ("train_sampling_strategy='group_by_length'", _group_by_length),
    "warmup_ratio": ("warmup_steps with a value below 1", _warmup_ratio),
    "include_inputs_for_metrics": ("include_for_metrics=['inputs']", _include_inputs),
}


def translate(given: dict[str, Any], known: Collection[str], owner: str) -> dict[str, Any]:
    """Return the keywords by today's names.

    Raises:
        ConfigError: a keyword that nobody knows, or an old and a new name of one thing together.
    """
    result: dict[str, Any] = {}
    for name, value in given.items():
        new = {name: value} if name in known else _modern(name, value, known, owner)
        for key, new_value in new.items():
            if key in result or (key != name and key in given):
                raise ConfigError(f"{owner}: '{name}' and '{key}' are two names of one argument; give only one.")
            result[key] = new_value
    return result


def _modern(name: str, value: Any, known: Collection[str], owner: str) -> dict[str, Any]:
    if name in REPLACED:
        advice, convert = REPLACED[name]
        _warn(f"{owner}: '{name}' is an old name; use {advice}.")
        return convert(value)
    if name not in RENAMED:
        hint = _BELONGS.get(name) or did_you_mean(name, known)
        raise ConfigError(f"{owner} has no argument '{name}' (given: {value!r}).{hint}")
    new = RENAMED[name]
    if new:
        _warn(f"{owner}: '{name}' is an old name; use '{new}'.")
        return {new: value}
    _warn(f"{owner}: '{name}' is no longer needed and is ignored: {_NOT_NEEDED.get(name, 'it has no effect')}.")
    return {}


def _warn(message: str) -> None:
    warnings.warn(message, FutureWarning, stacklevel=5)
