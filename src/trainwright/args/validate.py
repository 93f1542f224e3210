"""Checks arguments before any work starts; all faults are reported together, each with what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from importlib.util import find_spec
from typing import Any

from trainwright.args import launched, names, sharding
from trainwright.args.durations import seconds
from trainwright.args.unsupported import refusals
from trainwright.errors import ConfigError, did_you_mean
from trainwright.trackers.table import TRACKERS

_MOST = 2**62  # what a seed, or a count of anything, stays below
_LARGEST = 3.4028235e38  # of float32
WHOLE = {  # the least that each may be
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "max_skipped_steps": 1, "dataloader_num_workers": 0, "seed": -_MOST, "max_steps": -_MOST,
}  # fmt: skip
OPTIONAL_WHOLE = {
    "save_total_limit": 1, "torch_empty_cache_steps": 1, "dataloader_prefetch_factor": 1, "eval_accumulation_steps": 1,
    "ddp_bucket_cap_mb": 1, "data_seed": -_MOST, "generation_max_length": 1, "generation_num_beams": 1,
}  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "adam_epsilon", "num_train_epochs", "eval_delay",
    "ddp_timeout",
)  # fmt: skip
_MAY_BE_INFINITE = ("max_grad_norm",)  # measured, and never clipped
_SHARES = ("adam_beta1", "adam_beta2", "label_smoothing_factor")


def validate(args: Any) -> None:
    """Raise one ConfigError that lists every fault of the arguments."""
    found = faults(args)
    if len(found) == 1:
        raise ConfigError(found[0])
    if found:
        raise ConfigError("\n  - ".join([f"{len(found)} arguments cannot work:", *found]))


def faults(args: Any) -> list[str]:
    """Return one sentence for every fault of the arguments, beginning with the name of the argument."""
    return [
        *_numbers(args),
        *_durations(args),
        *_shares(args),
        *_train_time(args),
        *_mirror(args),
        *_choices(args),
        *_intervals(args),
        *_best_model(args),
        *_precision(args),
        *_loading(args),
        *_exchanges(args),
        *_lists(args),
        *launched.faults(args),
        *sharding.faults(args),
        *refusals(args),
    ]


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that float32 holds."""
    return is_number(value) and -_LARGEST <= value <= _LARGEST


def _numbers(args: Any) -> Iterator[str]:
    for name, least in WHOLE.items():
        if not _is_whole(getattr(args, name), least):
            yield _not_whole(name, getattr(args, name), least, ".")
    for name, least in OPTIONAL_WHOLE.items():
        value = getattr(args, name, None)
        if value is not None and not _is_whole(value, least):
            yield _not_whole(name, value, least, ", or be left out.")
    for name in _NOT_NEGATIVE:
        yield from _not_negative(name, getattr(args, name))
    if args.neftune_noise_alpha is not None:
        yield from _not_negative("neftune_noise_alpha", args.neftune_noise_alpha)
    for name, value in args.lr_scheduler_kwargs.items() if isinstance(args.lr_scheduler_kwargs, dict) else ():
        if is_number(value) and not is_finite(value):
            yield f"lr_scheduler_kwargs: {name}={value!r} is not finite; give a number."


def _durations(args: Any) -> Iterator[str]:
    if not is_number(args.max_steps) or not is_number(args.num_train_epochs) or not is_number(args.warmup_steps):
        return  # told already
    if args.max_steps <= 0 and args.num_train_epochs == 0:
        yield "num_train_epochs=0 trains nothing; give passes above 0, or max_steps."
    if 0 < args.max_steps < args.warmup_steps:
        yield (
            f"warmup_steps={args.warmup_steps} is longer than the run (max_steps={args.max_steps}), so the "
            "learning rate would never be reached; lower it, or give a share below 1."
        )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _MOST


def _not_whole(name: str, value: Any, least: int, end: str) -> str:
    if isinstance(value, int) and abs(value) >= _MOST:
        return f"{name} is a number of {value.bit_length()} bits; it must be below 2**62."
    return f"{name}={value!r} must be a whole number{f' of at least {least}' if least >= 0 else ''}{end}"


def _not_negative(name: str, value: Any) -> Iterator[str]:
    if not is_number(value):
        yield _not_a_number(name, value)
    elif value < 0:
        yield f"{name}={value!r} is negative; it must be 0 or more."
    elif not is_finite(value) and not (name in _MAY_BE_INFINITE and value > 0):
        yield f"{name}={value!r} is not finite (float32 ends at 3.4e38); give a number."


def _shares(args: Any) -> Iterator[str]:
    for name in _SHARES:
        value = getattr(args, name)
        if not is_number(value) or not 0 <= value < 1:
            yield f"{name}={value!r} must be a number from 0 to below 1."
    decay = args.ema_decay
    if decay is not None and (not is_number(decay) or not 0 <= decay < 1):
        yield f"ema_decay={decay!r} must be a number from 0 to below 1, or be left out."
    factor = args.spike_factor
    if factor is not None and not (is_number(factor) and factor > 1):
        yield f"spike_factor={factor!r} must be a number above 1, or be left out."


def _train_time(args: Any) -> Iterator[str]:
    try:
        if args.max_train_time is not None:
            seconds(args.max_train_time)
    except (TypeError, ValueError):
        yield (
            f"max_train_time={args.max_train_time!r} is no length of time; write '8h', '30m', '90s', '1d12h', or "
            "seconds as a number above 0."
        )


def _mirror(args: Any) -> Iterator[str]:
    mirror = args.checkpoint_mirror
    if mirror is not None and (not isinstance(mirror, str) or not mirror):
        yield f"checkpoint_mirror={mirror!r} is no address; write one as text, such as 's3://bucket/run', or a folder."


def _not_a_number(name: str, value: Any) -> str:
    hint = ""
    if isinstance(value, str):
        try:
            hint = f" Write it without quotes: {name}={float(value):g}."
        except ValueError:
            hint = " Give a number."
    return f"{name}={value!r} is {type(value).__name__}, not a number.{hint}"


def _report_to(chosen: list[Any]) -> Iterator[str]:
    for tracker in chosen:
        if not isinstance(tracker, str):
            yield f"report_to={tracker!r} is no name; give a tracker of your own in the Trainer's callbacks=[...]."
        elif tracker in ("all", "none"):
            yield f"report_to='{tracker}' stands for itself; leave out {', '.join(map(str, chosen))} or it."
        else:
            yield from _choice("report_to", tracker, (*TRACKERS, "all", "none"))


def _choice(name: str, value: Any, allowed: Iterable[str]) -> Iterator[str]:
    text = value.value if isinstance(value, Enum) else value
    allowed = list(allowed)
    if text not in allowed:
        hint = did_you_mean(str(text), allowed)
        yield f"{name}={text!r} is not known.{hint} Known: {', '.join(allowed)}."


def _choices(args: Any) -> Iterator[str]:
    for name in ("eval_strategy", "logging_strategy"):
        yield from _choice(name, getattr(args, name), names.IntervalStrategy)
    yield from _choice("save_strategy", args.save_strategy, names.SaveStrategy)
    yield from _choice("hub_strategy", args.hub_strategy, names.HubStrategy)
    yield from _choice("lr_scheduler_type", args.lr_scheduler_type, names.SCHEDULERS)
    yield from _choice("log_level", args.log_level, names.LOG_LEVELS)
    yield from _choice(
        "include_num_input_tokens_seen", args.include_num_input_tokens_seen, ("no", "all", "non_padding")
    )
    if not isinstance(args.torch_compile, bool):
        yield from _choice("torch_compile", args.torch_compile, (names.LAYERS, "true", "false"))
    if args.use_liger_kernel and find_spec("liger_kernel") is None:
        yield "use_liger_kernel needs the package liger-kernel, which is not installed: pip install liger-kernel."
    if args.optim in names.REFUSED_OPTIMIZERS:
        yield f"optim='{args.optim}' {names.REFUSED_OPTIMIZERS[args.optim]}."
    else:
        yield from _choice("optim", args.optim, (*names.OPTIMIZERS, *names.OWN_OPTIMIZERS))
    yield from _report_to(args.report_to)
    for feature in args.debug:
        yield from _choice("debug", feature, ("underflow_overflow",))
    if args.train_sampling_strategy == "batch_rebalance":
        yield "train_sampling_strategy='batch_rebalance' is not supported; use 'group_by_length'."
    else:
        yield from _choice("train_sampling_strategy", args.train_sampling_strategy, names.SAMPLING)


def _intervals(args: Any) -> Iterator[str]:
    for kind in ("logging", "eval", "save"):
        if getattr(args, f"{kind}_strategy") != "steps":
            continue
        steps = getattr(args, f"{kind}_steps")
        if not is_number(steps):
            yield _not_a_number(f"{kind}_steps", steps)
        elif not is_finite(steps):
            yield f"{kind}_steps={steps!r} is not finite; give a number, or {kind}_strategy='no'."
        elif steps <= 0:
            yield f"{kind}_steps={steps!r} must be above 0; use {kind}_strategy='no' to switch it off."
        elif steps > 1 and steps != int(steps):
            yield f"{kind}_steps={steps!r} must be a whole number, or a share of all steps below 1."
    steps = args.warmup_steps
    if is_number(steps) and is_finite(steps) and steps > 1 and steps != int(steps):
        yield f"warmup_steps={steps!r} must be a whole number, or a share of all steps below 1."


def _best_model(args: Any) -> Iterator[str]:
    needs_eval = args.load_best_model_at_end or args.save_strategy == "best"
    if args.lr_scheduler_type in names.METRIC_SCHEDULERS and args.eval_strategy == "no":
        yield f"lr_scheduler_type='{args.lr_scheduler_type}' follows a metric, so it needs eval_strategy."
    if needs_eval and args.eval_strategy == "no":
        yield "The best model is chosen by evaluation, so it needs eval_strategy='steps' or 'epoch'."
        return
    if not args.load_best_model_at_end or args.save_strategy == "best":
        return
    if args.save_strategy != args.eval_strategy:
        yield (
            f"load_best_model_at_end needs a checkpoint at an evaluation, but eval_strategy='{args.eval_strategy}' "
            f"and save_strategy='{args.save_strategy}' differ; set both alike, or save_strategy='best'."
        )
    elif args.eval_strategy == "steps" and not _is_multiple(args.save_steps, args.eval_steps):
        yield (
            f"load_best_model_at_end needs save_steps={args.save_steps} to be a multiple of "
            f"eval_steps={args.eval_steps}."
        )


def _is_multiple(save_steps: Any, eval_steps: Any) -> bool:
    if not (is_number(save_steps) and is_number(eval_steps)) or eval_steps <= 0:
        return True  # reported as an interval already
    if (save_steps < 1) != (eval_steps < 1):
        return False
    ratio = save_steps / eval_steps
    return bool(abs(ratio - round(ratio)) < 1e-6)


def _precision(args: Any) -> Iterator[str]:
    if args.fp16 and args.bf16:
        yield "fp16 and bf16 are both set; choose one (bf16 where the GPU has it)."
    if args.fp16_full_eval and args.bf16_full_eval:
        yield "fp16_full_eval and bf16_full_eval are both set; choose one."


def _exchanges(args: Any) -> Iterator[str]:
    if args.ddp_static_graph and args.auto_find_batch_size:
        yield (
            "ddp_static_graph=True exchanges gradients in every backward pass, and auto_find_batch_size after them; "
            "leave one of them out."
        )


def _lists(args: Any) -> Iterator[str]:
    for name in ("label_names", "include_for_metrics"):
        if isinstance(value := getattr(args, name), str):
            yield f"{name}={value!r} is a text, where a list of names is expected: {name}=[{value!r}]."
    for one in args.include_for_metrics if not isinstance(args.include_for_metrics, str) else ():
        yield from _choice("include_for_metrics", one, ("inputs", "loss"))


def _loading(args: Any) -> Iterator[str]:
    if args.dataloader_num_workers == 0 and args.dataloader_prefetch_factor is not None:
        yield (
            f"dataloader_prefetch_factor={args.dataloader_prefetch_factor} needs worker processes; set "
            "dataloader_num_workers above 0, or leave it out."
        )
