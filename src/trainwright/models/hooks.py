"""What a user has put around a model's forward: it must see what it would see anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as globally

_LIBRARIES = ("torch.", "transformers.modeling_utils", "peft.", "accelerate.", "trainwright.")  # theirs change nothing
_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL = tuple(f"_global{kind}" for kind in _KINDS)


def owners(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """Return the modules that a layer is a part of, the model itself first."""
    path = next(name for name, part in model.named_modules() if part is layer).split(".")
    return [model.get_submodule(".".join(path[:end])) for end in range(len(path))]


def watched(modules: Iterable[nn.Module]) -> str | None:
    """Return what a user has put around the forward of some modules, in words, or None where there is nothing."""
    if any(map(_of_a_user, (getattr(globally, kind) for kind in _GLOBAL))):
        return "hooks are registered for all modules"
    for part in modules:
        around = vars(part)
        if any(around[kind] and _of_a_user(around[kind]) for kind in _KINDS):
            return f"{type(part).__name__} has hooks"
        if "forward" in around and not hasattr(part, "_hf_hook"):  # accelerate's wrapper moves tensors, and no more
            return f"the forward of {type(part).__name__} was replaced"
    return None


@contextmanager
def unwatched(model: nn.Module) -> Iterator[None]:
    """Leave out the user's hooks while the body calls the model for itself."""
    kept = []
    for part in model.modules():
        for hooks in (getattr(part, kind) for kind in _KINDS):
            if _of_a_user(hooks):
                kept.append((hooks, dict(hooks)))
    for hooks, given in kept:
        hooks.clear()
        hooks.update({key: hook for key, hook in given.items() if not _is_users(hook)})
    try:
        yield
    finally:
        for hooks, given in kept:
            hooks.clear()
            hooks.update(given)


def wraps_forward(model: nn.Module) -> bool:
    """Whether the class of a model of transformers is a user's own around another one's forward."""
    kinds = [kind for kind in type(model).__mro__ if "forward" in vars(kind) and kind is not nn.Module]
    of_transformers = [kind.__module__.startswith("transformers.models.") for kind in kinds]
    return not of_transformers[0] and any(of_transformers)


def _of_a_user(hooks: Any) -> bool:
    return any(_is_users(hook) for hook in hooks.values())


def _is_users(hook: Any) -> bool:
    return not (getattr(hook, "__module__", None) or "").startswith(_LIBRARIES)
