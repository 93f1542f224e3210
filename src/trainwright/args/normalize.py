"""Brings arguments into one form: text from a command line becomes numbers, names become enums, defaults derive."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import fields
from enum import Enum, StrEnum
from typing import Any

from trainwright.args import launched, names, sharding
from trainwright.args.validate import OPTIONAL_WHOLE, WHOLE
from trainwright.errors import ConfigError

_DICT_FIELDS = (
    "lr_scheduler_kwargs",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing_kwargs",
    "accelerator_config",
    "fsdp_config",
    "deepspeed",
)
_ENUMS: dict[str, type[StrEnum]] = {
    "eval_strategy": names.IntervalStrategy,
    "logging_strategy": names.IntervalStrategy,
    "save_strategy": names.SaveStrategy,
    "hub_strategy": names.HubStrategy,
}


def normalize(args: Any) -> None:
    """Fill in what follows from other arguments, in place. Wrong values are left for `validate` to report."""
    args.output_dir = os.path.expanduser(args.output_dir or "trainer_output")
    _plain_numbers(args)
    _parse_json_text(args)
    _names_to_enums(args)
    sharding.follow(args)
    _checkpointing_names(args)
    launched.follow(args)
    _evaluation_defaults(args)
    if isinstance(args.include_num_input_tokens_seen, bool):
        args.include_num_input_tokens_seen = "all" if args.include_num_input_tokens_seen else "no"
    if args.disable_tqdm is None:
        args.disable_tqdm = logging.getLogger("trainwright").getEffectiveLevel() > logging.WARNING
    if isinstance(args.torch_compile, str):
        args.torch_compile = {"true": True, "false": False}.get(args.torch_compile.lower(), args.torch_compile)
    if not args.torch_compile and (args.torch_compile_backend or args.torch_compile_mode):
        args.torch_compile = True
    args.debug = args.debug.split() if isinstance(args.debug, str) else list(args.debug or [])
    args.report_to = _trackers(args.report_to)


def _plain_numbers(args: Any) -> None:
    """Make numpy's and torch's numbers Python's, and a whole number of what must be one: 10.0 steps are 10."""
    for field in fields(args):
        value = getattr(args, field.name)
        if getattr(value, "ndim", None) == 0:
            setattr(args, field.name, value := value.item())
        if field.name in WHOLE | OPTIONAL_WHOLE and isinstance(value, float) and value.is_integer():
            setattr(args, field.name, int(value))


def _parse_json_text(args: Any) -> None:
    for name in _DICT_FIELDS:
        value = getattr(args, name)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                setattr(args, name, json.loads(value))
            except json.JSONDecodeError as error:
                raise ConfigError(f"{name}={value!r} is not valid JSON: {error}.") from None


def _names_to_enums(args: Any) -> None:
    for name in ("optim", "lr_scheduler_type"):
        value = getattr(args, name)
        setattr(args, name, value.value if isinstance(value, Enum) else value)
    for name, kind in _ENUMS.items():
        value = getattr(args, name)
        text = value.value if isinstance(value, Enum) else value
        if text in set(kind):
            setattr(args, name, kind(text))


def _checkpointing_names(args: Any) -> None:
    for old, new in (
        ("gradient_checkpointing", "activation_checkpointing"),
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ):
        value = getattr(args, new) if getattr(args, new) is not None else getattr(args, old)
        setattr(args, new, value)
        setattr(args, old, value)
    args.activation_checkpointing = args.gradient_checkpointing = bool(args.activation_checkpointing)


def _evaluation_defaults(args: Any) -> None:
    if args.eval_strategy != "no":
        args.do_eval = True
    if args.eval_strategy == "steps" and not args.eval_steps:
        args.eval_steps = args.logging_steps
    decides = args.load_best_model_at_end or args.lr_scheduler_type in names.METRIC_SCHEDULERS
    if args.metric_for_best_model is None and (decides or args.save_strategy == "best"):
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")


def _trackers(report_to: Any) -> list[Any]:
    several = isinstance(report_to, list | tuple | set)
    chosen = list(dict.fromkeys(report_to or [])) if several or not report_to else [report_to]
    if chosen == ["all"]:
        from transformers.integrations import get_available_reporting_integrations

        return list(get_available_reporting_integrations())
    return [] if chosen == ["none"] else chosen


def warmup_steps(args: Any, num_training_steps: int) -> int:
    """Return the steps of warm-up; a value below 1 is a share of all steps, rounded up."""
    given = args.warmup_steps
    return int(given) if given >= 1 else math.ceil(num_training_steps * given)
