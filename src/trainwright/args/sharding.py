"""What the arguments ask of a sharded model, in the words of transformers and accelerate, and some of our own.

`fsdp` switches it on, `fsdp_config` says how, `parallelism_config` (or transformers' DistributedConfig) over how many
processes. What changes a number or memory is done or refused; what says only how torch's first FSDP worked is read and
has no effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from trainwright.args.launched import json_file
from trainwright.errors import did_you_mean
from trainwright.parallel.layouts.layout import Layout
from trainwright.parallel.layouts.sharding import Sharding

_KNOWS_PARTS = ("adamw_torch", "adamw_torch_fused", "adamw_bf16", "muon", "sgd", "adagrad", "rmsprop")
_LAUNCHED = {  # of accelerate's launcher, by its environment
    "FSDP_SHARDING_STRATEGY": "sharding_strategy", "FSDP_RESHARD_AFTER_FORWARD": "reshard_after_forward",
    "FSDP_AUTO_WRAP_POLICY": "auto_wrap_policy", "FSDP_TRANSFORMER_CLS_TO_WRAP": "transformer_layer_cls_to_wrap",
    "FSDP_MIN_NUM_PARAMS": "min_num_params", "FSDP_OFFLOAD_PARAMS": "cpu_offload",
    "FSDP_ACTIVATION_CHECKPOINTING": "activation_checkpointing",
}  # fmt: skip
_PREFIX = "fsdp_"  # which accelerate's files put before every key
_WRAPS = {"TRANSFORMER_BASED_WRAP": "layers", "SIZE_BASED_WRAP": "size", "NO_WRAP": "none"}
_STRATEGIES = {  # by torch's old names: (let go of parameters after the forward pass, copies of a machine's size)
    "FULL_SHARD": (True, False),
    "SHARD_GRAD_OP": (False, False),
    "HYBRID_SHARD": (True, True),
    "HYBRID_SHARD_ZERO2": (False, True),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "sharding_strategy": (*_STRATEGIES, "NO_SHARD"),
    "auto_wrap_policy": tuple(_WRAPS),
    "param_dtype": ("bf16", "fp32"),
    "reduce_dtype": ("bf16", "fp32"),
    "reduce_gradients": ("step", "micro_batch"),
}
_WHOLE = {"shard": 1, "replicate": 1, "tensor": 1, "min_num_params": 0}  # the least that each may be
READ = (*_CHOICES, *_WHOLE, "reshard_after_forward", "activation_checkpointing", "transformer_layer_cls_to_wrap")
"""The keys of `fsdp_config` that change something."""
WITHOUT_EFFECT = (
    "version", "backward_prefetch", "forward_prefetch", "limit_all_gathers", "use_orig_params", "sync_module_states",
    "state_dict_type", "cpu_ram_efficient_loading", "xla_fsdp_settings",
)  # fmt: skip
REFUSED = {
    "cpu_offload": "parameters stay on the device; use more processes, or reduce_gradients: micro_batch",
    "activation_checkpointing_offload": "activations stay on the device",
    "mixed_precision_policy": "write param_dtype and reduce_dtype: bf16 or fp32",
    "ignored_modules": "every parameter is sharded",
    "param_init_fn": "weights come from the model as it is given",
    "xla": "XLA is not supported",
    "xla_fsdp_v2": "XLA is not supported",
    "xla_fsdp_grad_ckpt": "XLA is not supported",
}
_WITH_FSDP = {
    "fp16": "one process's overflow is not the others'; use bf16=True",
    "bf16_full_eval": "set param_dtype: bf16 in fsdp_config",
    "fp16_full_eval": "set param_dtype: bf16 in fsdp_config",
}
_WITH_TENSOR = {
    "torch_compile": "its layers are divided by code that is not compiled",
    "use_liger_kernel": "its kernels take whole layers",
    "auto_find_batch_size": "where memory runs out on one process, the others wait in the middle of a layer",
}
_LAYOUT = {
    "dp_replicate_size": "replicate", "dp_shard_size": "shard", "fsdp_size": "shard", "tp_size": "tensor",
    "replicate": "replicate", "shard": "shard", "tensor": "tensor",
}  # fmt: skip
_OTHER_WAYS = {
    "cp_size": "context parallelism",
    "sp_size": "sequence parallelism", "ep_size": "expert parallelism",
    "pp_size": "pipelines", "fsdp_cpu_offload": "offloading", "enable_expert_parallel": "expert parallelism",
    "enable_sequence_parallel": "sequence parallelism",
}  # fmt: skip


def sharding_of(args: Any) -> Sharding | None:
    """Return what arguments without a fault ask for; None where every process holds the whole model."""
    config, layout = config_of(args), layout_of(args.parallelism_config)
    strategy = str(config.get("sharding_strategy", "FULL_SHARD")).upper()
    sizes = {name: int(config[name]) for name in ("shard", "replicate", "tensor") if config.get(name) is not None}
    if sizes:
        layout = replace(layout or Layout(), **sizes)
    if layout is None and (not args.fsdp or strategy == "NO_SHARD"):
        return None
    reshard, hybrid = _STRATEGIES[strategy]
    layers = config.get("transformer_layer_cls_to_wrap") or ()
    return Sharding(
        layout=layout,
        hybrid=hybrid and layout is None,
        reshard_after_forward=_is_on(config.get("reshard_after_forward", reshard)),
        reduce_often=config.get("reduce_gradients", "step") == "micro_batch",
        param_dtype=config.get("param_dtype"),
        reduce_dtype=config.get("reduce_dtype"),
        wrap=_WRAPS[str(config.get("auto_wrap_policy", "TRANSFORMER_BASED_WRAP")).upper()],
        layer_names=tuple(name.strip() for name in (layers.split(",") if isinstance(layers, str) else layers)),
        min_num_params=int(config.get("min_num_params") or 0),
    )


def follow(args: Any) -> None:
    """Bring the arguments into one form: a switch from a command line, a file of JSON, what accelerate's launcher asks
    for, and the recomputation of activations, which is an argument of its own.

    Raises:
        ConfigError: the file cannot be read.
    """
    if isinstance(args.fsdp, str) and args.fsdp.lower() in ("true", "false"):
        args.fsdp = args.fsdp.lower() == "true"
    if isinstance(args.fsdp_config, str):
        args.fsdp_config = json_file("fsdp_config", args.fsdp_config)
    if _is_on(os.environ.get("ACCELERATE_USE_FSDP")) and not args.fsdp:
        asked = {theirs: os.environ[name] for name, theirs in _LAUNCHED.items() if os.environ.get(name)}
        args.fsdp, args.fsdp_config = True, {**asked, **(args.fsdp_config or {})}
    if args.fsdp and _is_on(config_of(args).get("activation_checkpointing")):
        args.activation_checkpointing = True


def config_of(args: Any) -> dict[str, Any]:
    """Return `fsdp_config` with what `fsdp` itself says in words, such as "shard_grad_op"; without accelerate's prefix.

    A file of JSON was read before.
    """
    given = args.fsdp_config if isinstance(args.fsdp_config, Mapping) else {}
    found = {str(name).removeprefix(_PREFIX): value for name, value in given.items()}
    for word in words_of(args):
        if word == "offload":
            found["cpu_offload"] = True
        elif word != "auto_wrap":
            found.setdefault("sharding_strategy", word.upper())
    return found


def words_of(args: Any) -> list[str]:
    """Return the words of `fsdp`, where it is not a switch."""
    given = args.fsdp
    if isinstance(given, str) and given.lower() not in ("true", "false", ""):
        return given.lower().split()
    return [str(getattr(one, "value", one)).lower() for one in given] if isinstance(given, list | tuple) else []


def layout_of(given: Any) -> Layout | None:
    """Return the layout that a configuration of accelerate's or transformers' names, or a mapping of the same names."""
    if given is None:
        return None
    sizes = {ours: int(value) for theirs, ours in _LAYOUT.items() if (value := _get(given, theirs)) is not None}
    layout = Layout(**sizes)
    return layout if layout.size > 1 else None


def faults(args: Any) -> Iterator[str]:
    """Yield one sentence for everything that is asked of a sharded model and cannot be done, or is not known."""
    config, given = config_of(args), args.parallelism_config
    for name, what in _OTHER_WAYS.items() if given is not None else ():
        if (value := _get(given, name)) not in (None, False, 1):
            yield f"parallelism_config: {name}={value!r} asks for {what}, which is not supported."
    if args.fsdp:
        yield from _config_faults(config)
    elif any(config.get(name) for name in (*READ, *REFUSED)):
        yield "fsdp_config has no effect without fsdp=True; set that, or leave it out."
    if args.fsdp or (given is not None and layout_of(given) is not None):
        yield from _argument_faults(args)


def _config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for name, known in _CHOICES.items():
        value = config.get(name)
        if value is not None and str(value) not in known and str(value).upper() not in known:
            near = did_you_mean(str(value), known)
            yield f"fsdp_config: {name}={value!r} is not known.{near} Known: {', '.join(known)}."
    for name, least in _WHOLE.items():
        if (value := config.get(name)) is not None and not (str(value).isdigit() and int(value) >= least):
            yield f"fsdp_config: {name}={value!r} must be a whole number of at least {least}."
    for name, value in config.items():
        if name in REFUSED and _is_on(value):
            yield f"fsdp_config: {name}={value!r} is not supported: {REFUSED[name]}."
        elif name not in (*READ, *WITHOUT_EFFECT, *REFUSED):
            yield f"fsdp_config has no key '{name}'.{did_you_mean(name, READ)}"


def _argument_faults(args: Any) -> Iterator[str]:
    if args.optim not in _KNOWS_PARTS:
        yield (
            f"optim='{args.optim}' cannot be used with fsdp: it looks at whole matrices, or keeps formats of its own, "
            f"and a process holds parts. Use {', '.join(_KNOWS_PARTS)}."
        )
    for name, advice in _WITH_FSDP.items():
        if getattr(args, name):
            yield f"{name}=True cannot be used with fsdp: {advice}."
    for name, reason in _WITH_TENSOR.items() if _divides_layers(args) else ():
        if value := getattr(args, name):
            yield f"{name}={value!r} cannot be used with tensor parallelism: {reason}."


def _divides_layers(args: Any) -> bool:
    layout, given = layout_of(args.parallelism_config), config_of(args).get("tensor")
    return (layout is not None and layout.tensor > 1) if given is None else str(given) not in ("0", "1")


def _get(given: Any, name: str) -> Any:
    return given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)


def _is_on(value: Any) -> bool:
    return value.lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)
