"""What accelerate's launcher asks for by its environment, and the options of `accelerator_config`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainwright.errors import ConfigError, did_you_mean

_YES = ("1", "true", "yes", "y", "t", "on")
_TORCHRUN = "start the script under torchrun, which trains with DistributedDataParallel"
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
_DEFAULTS = {
    "split_batches": False,
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
    "non_blocking": False,
    "gradient_accumulation_kwargs": None,
    "use_configured_state": False,
}
_ACCUMULATION_DEFAULTS = {"adjust_scheduler": True, "sync_with_dataloader": True, "sync_each_batch": False}


def follow(args: Any) -> None:
    """Take over what the launcher and `accelerator_config` say in place of arguments, as transformers does."""
    env = os.environ
    precision = env.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision in ("bf16", "fp16") and not (args.bf16 or args.fp16):
        setattr(args, precision, True)
    if _is_yes(env.get("ACCELERATE_USE_CPU")):
        args.use_cpu = True
    compiler = env.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if compiler != "no" and not args.torch_compile:
        args.torch_compile, args.torch_compile_backend = True, compiler
    steps = accumulation(args).get("num_steps")
    if isinstance(steps, int) and args.gradient_accumulation_steps == 1:
        args.gradient_accumulation_steps = steps


def faults(args: Any) -> Iterator[str]:
    """Yield one sentence for everything that the launcher or `accelerator_config` ask for and is not done here."""
    for name, what in _REFUSED.items():
        if _is_yes(os.environ.get(name)):
            yield f"{name}={os.environ[name]} asks for {what}, which is not supported yet; {_TORCHRUN}."
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() == "fp8":
        yield "ACCELERATE_MIXED_PRECISION=fp8 is not supported; launch with --mixed_precision bf16."
    for name, value in chosen(args).items():
        if name not in _DEFAULTS:
            yield f"accelerator_config has no option '{name}'.{did_you_mean(name, _DEFAULTS)}"
        else:
            yield from _fault(args, name, value)


def chosen(args: Any) -> dict[str, Any]:
    """Return the options of `accelerator_config` that are not as they are by default."""
    return {name: value for name, value in options(args).items() if value != _DEFAULTS.get(name, _DEFAULTS)}


def options(args: Any) -> dict[str, Any]:
    """Return `accelerator_config` as a dict, whether it was given as one, as an object, or as a file of JSON.

    Raises:
        ConfigError: the file cannot be read, or it is none of these.
    """
    given = args.accelerator_config
    if given is None:
        return {}
    if isinstance(given, str):
        given = json_file("accelerator_config", given)
    elif not isinstance(given, dict) and hasattr(given, "to_dict"):
        given = given.to_dict()
    if not isinstance(given, dict):
        raise ConfigError(
            f"accelerator_config={given!r} is {type(given).__name__}; give a dict such as {{'even_batches': True}}."
        )
    return given


def json_file(name: str, path: str) -> Any:
    """Return what a file of JSON holds that an argument names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}='{path}' is no file of JSON that can be read: {error}.") from None


def accumulation(args: Any) -> dict[str, Any]:
    """Return the `gradient_accumulation_kwargs` of `accelerator_config`."""
    given = options(args).get("gradient_accumulation_kwargs")
    return given if isinstance(given, dict) else {}


def _fault(args: Any, name: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with an option; `even_batches` and `non_blocking` change no number here."""
    ranks = args.world_size
    if name == "split_batches" and ranks > 1:
        yield (
            f"accelerator_config: split_batches={value!r} is not supported in several processes; leave it out, and set "
            f"per_device_train_batch_size to a {ranks}th of what it is."
        )
    elif name == "dispatch_batches" and value and ranks > 1:
        yield (
            "accelerator_config: dispatch_batches=True is not supported in several processes: each reads its own rows; "
            "leave it out."
        )
    elif name == "use_seedable_sampler":
        yield "accelerator_config: use_seedable_sampler=False is not supported: the order follows from data_seed."
    elif name == "use_configured_state":
        yield f"accelerator_config: use_configured_state={value!r} is not supported; the arguments decide alone."
    elif name == "gradient_accumulation_kwargs":
        yield from _accumulation_faults(args)


def _accumulation_faults(args: Any) -> Iterator[str]:
    place = "accelerator_config: gradient_accumulation_kwargs:"
    for name, value in accumulation(args).items():
        if name == "num_steps":
            if value != args.gradient_accumulation_steps:
                yield (
                    f"{place} num_steps={value!r} and gradient_accumulation_steps={args.gradient_accumulation_steps} "
                    "differ; give one of them, a whole number of at least 1."
                )
        elif name not in _ACCUMULATION_DEFAULTS:
            yield f"{place} there is no '{name}'.{did_you_mean(name, [*_ACCUMULATION_DEFAULTS, 'num_steps'])}"
        elif value != _ACCUMULATION_DEFAULTS[name]:
            yield f"{place} {name}={value!r} is not supported; leave it out."


def _is_yes(value: str | None) -> bool:
    return (value or "").lower() in _YES
