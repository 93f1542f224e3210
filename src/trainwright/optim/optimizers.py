"""Optimizers by transformers' names: torch's own directly, all others through transformers' factories; and our own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainwright.args.names import OWN_OPTIMIZERS
from trainwright.errors import ConfigError, did_you_mean
from trainwright.optim.bf16 import AdamWBF16
from trainwright.optim.muon import MuonAndAdamW, split_groups

_STATES = {"adamw": 2, "sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "lion": 1, "muon": 1}
_STATES_BY_SETTING = {"sgd": ("momentum",), "rmsprop": ("momentum", "centered"), "adafactor": ("beta1",)}
OptimizerChoice = tuple[Any, dict[str, Any]]


def state_copies(name: str, settings: Mapping[str, Any]) -> int:
    """Return how many tensors of a parameter's size an optimizer keeps for it.

    Args:
        name: of it, or of its class.
        settings: such as `optim_args`, or the defaults of the optimizer.
    """
    kind = next((kind for kind in _STATES if name.lower().startswith(kind)), "adamw")
    given = [str(settings.get(one, "0")).lower() for one in _STATES_BY_SETTING.get(kind, ())]
    return _STATES[kind] + sum(one not in ("0", "0.0", "false", "none") for one in given)


def optimizer_class(args: Any, model: nn.Module | None = None) -> OptimizerChoice:
    """Return the optimizer class that `args.optim` names and its keyword arguments."""
    settings = parse_settings(args.optim_args)
    if args.optim in OWN_OPTIMIZERS:
        return _own(args, settings)
    adam = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    if args.optim in ("adamw_torch", "adamw_torch_fused") and not settings:
        return torch.optim.AdamW, {**adam, "fused": True} if args.optim == "adamw_torch_fused" else adam
    if args.optim in ("sgd", "adagrad", "rmsprop") and not settings:
        kinds = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}
        return kinds[args.optim], {"lr": args.learning_rate}
    return _from_transformers(args, model, settings)


def _own(args: Any, settings: dict[str, str]) -> OptimizerChoice:
    adam = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    takes: dict[str, Any] = {} if args.optim == "adamw_bf16" else {"momentum": float, "ns_steps": int}
    unread = [name for name in settings if name not in takes]
    if unread:
        known = f" It takes: {', '.join(takes)}." if takes else ""
        raise ConfigError(
            f"optim_args={args.optim_args!r}: nothing reads '{unread[0]}' with optim='{args.optim}'.{known}"
        )
    try:
        given = {name: takes[name](value) for name, value in settings.items()}
    except ValueError as error:
        raise ConfigError(f"optim_args={args.optim_args!r}: {error}.") from error
    return AdamWBF16 if args.optim == "adamw_bf16" else MuonAndAdamW, {**adam, **given}


def parse_settings(text: str | None) -> dict[str, str]:
    """Return `key=value,key=value` as a dict.

    Raises:
        ConfigError: a part without `=`.
    """
    parts = [part for part in (text or "").replace(" ", "").split(",") if part]
    wrong = [part for part in parts if "=" not in part]
    if wrong:
        raise ConfigError(f"optim_args={text!r}: '{wrong[0]}' has no '='; write key=value,key=value.")
    return dict(part.split("=", 1) for part in parts)


def _from_transformers(args: Any, model: nn.Module | None, settings: dict[str, str]) -> OptimizerChoice:
    from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS, OptimizerContext
    from transformers.training_args import OptimizerNames

    adam = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    asked = _Asked(settings)
    given = {
        "args": _Named(args, OptimizerNames(args.optim)),
        "model": model,
        "optimizer_kwargs": {"lr": args.learning_rate},
        "adam_kwargs": adam,
        "optim_args": asked,
    }
    wanted = inspect.signature(OptimizerContext).parameters
    context = OptimizerContext(**{name: value for name, value in given.items() if name in wanted})
    try:
        chosen, kwargs = _OPTIMIZER_HANDLERS[OptimizerNames(args.optim)](context)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"optim='{args.optim}': {error}") from error
    unread = [name for name in settings if name not in asked.names and name not in kwargs]
    if unread:
        near = did_you_mean(unread[0], asked.names)
        raise ConfigError(
            f"optim_args={args.optim_args!r}: nothing reads '{unread[0]}' with "
            f"optim='{OptimizerNames(args.optim).value}'.{near}"
        )
    return chosen, kwargs


class _Asked(dict[str, str]):
    """Settings that note the names that are asked for."""

    def __init__(self, settings: dict[str, str]) -> None:
        super().__init__(settings)
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self.names.add(name)
        return super().pop(name, *default)


class _Named:
    """The arguments with the optimizer's name as transformers' enum, which its factories compare."""

    def __init__(self, args: Any, optim: Any) -> None:
        self._args = args
        self.optim = optim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)


def build_optimizer(choice: OptimizerChoice, model: nn.Module, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer over the parameter groups, or over those that the choice brings itself.

    Raises:
        ConfigError: its class does not take them, or its keywords.
    """
    chosen, given = choice
    kwargs = dict(given)
    if not (isinstance(chosen, type) and issubclass(chosen, torch.optim.Optimizer)):
        made: torch.optim.Optimizer = chosen()(model, **kwargs)
        return made
    for name in ("params", "model", "optimizer_dict"):
        groups = kwargs.pop(name, groups)
    if chosen is MuonAndAdamW:
        groups = split_groups(model, groups)
    if kwargs.get("optim_bits") == 8 and chosen.__module__.startswith("bitsandbytes."):
        _keep_embeddings_in_32_bit(model)
    try:
        optimizer: torch.optim.Optimizer = chosen(groups, **kwargs)
    except (TypeError, ValueError) as error:
        settings = ", ".join(f"{name}={value!r}" for name, value in kwargs.items()) or "no settings"
        raise ConfigError(f"The optimizer {chosen.__name__} cannot be made with {settings}: {error}.") from error
    return optimizer


def _keep_embeddings_in_32_bit(model: nn.Module) -> None:
    """Let an 8-bit optimizer keep the state of embeddings in 32 bit, as transformers does: rare words move in leaps."""
    from bitsandbytes.optim import GlobalOptimManager

    for part in model.modules():
        if isinstance(part, nn.Embedding):
            GlobalOptimManager.get_instance().register_module_override(part, "weight", {"optim_bits": 32})
