"""Layers of bitsandbytes, where they differ from what a layer is expected to do."""

from __future__ import annotations

from typing import Any

from torch import nn

_PACKS = "support_avx512bf16_for_cpu"


def keep_backward(model: nn.Module) -> None:
    """Let layers of 4 bits on a CPU be trained through after an evaluation.

    On processors with bfloat16, those of bitsandbytes pack their weights in an evaluation's forward pass, and have no
    backward pass any more until they are saved: training would go on with gradients that lack what lies below.
    """
    part: Any
    for part in model.modules():
        if getattr(part, _PACKS, False):
            setattr(part, _PACKS, False)
