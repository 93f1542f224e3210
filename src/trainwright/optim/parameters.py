"""Which parameters are decayed."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from trainwright.errors import ConfigError

_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that weight decay applies to: all but biases and norms.

    A parameter is left out when it sits in a LayerNorm, or when its name or a module's name on the way to it says
    bias or norm; the rule and the patterns are those of transformers.
    """
    return list(_decayed(model, ""))


def _decayed(module: nn.Module, prefix: str) -> list[str]:
    names = []
    for child_name, child in module.named_children():
        if not isinstance(child, nn.LayerNorm) and not _NOT_DECAYED.search(child_name.lower()):
            names += _decayed(child, f"{prefix}{child_name}.")
    own = [name for name in module._parameters if not _NOT_DECAYED.search(name.lower())]
    return names + [prefix + name for name in own]


def parameter_groups(model: nn.Module, decayed: list[str], weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with weight decay and without.

    Raises:
        ConfigError: nothing is trainable.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        total = sum(1 for _ in model.parameters())
        raise ConfigError(
            f"None of the model's {total} parameters is trainable. Set requires_grad_(True) on those to train, "
            "or attach adapters first."
        )
    with_decay = set(decayed)
    return [
        {"params": [p for n, p in trainable.items() if n in with_decay], "weight_decay": weight_decay},
        {"params": [p for n, p in trainable.items() if n not in with_decay], "weight_decay": 0.0},
    ]
