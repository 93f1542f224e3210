"""Liger's kernels in the layers of a model: norms, rotary positions and gated products, each in one pass over memory.

The loss stays our own, which builds no logits either.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from trainwright.errors import ConfigError, did_you_mean
from trainwright.models.inspect import base_model, is_pretrained

_OF_LOSS = ("cross_entropy", "fused_linear_cross_entropy")


def use_liger_kernels(model: nn.Module, settings: dict[str, bool], device: torch.device) -> None:
    """Put Liger's kernels into the layers of a model, in place; models of its kind that are made later have them too.

    Args:
        model: of transformers, also with adapters.
        settings: which kernels, by Liger's names; those of the loss are left out.
        device: where it is trained.

    Raises:
        ConfigError: there are none for this model or device, or not by such a name.
    """
    if device.type == "cpu":
        raise ConfigError(
            "use_liger_kernel: Liger's kernels run on GPUs, and this run is on the CPU. Leave it out here."
        )
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    inner: Any = base_model(model)
    kind = inner.config.model_type if is_pretrained(inner) else type(inner).__name__
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if apply is None:
        known = ", ".join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise ConfigError(
            f"use_liger_kernel: Liger has no kernels for '{kind}'. Leave it out; it has some for: {known}."
        )
    names = [name for name in inspect.signature(apply).parameters if name != "model"]
    for name in settings:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(f"liger_kernel_config: '{name}' is not known.{hint} For '{kind}': {', '.join(names)}.")
    _apply_liger_kernel_to_instance(inner, **{**settings, **dict.fromkeys(_OF_LOSS, False)})
