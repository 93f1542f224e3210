"""Arguments of transformers that this engine does not honour, each with what to do instead.

Switching one on is an error at construction: never a silent fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LATER = "is not supported yet"

REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "deepspeed": (
        bool,
        f"{_LATER}; start the script under torchrun, which trains with DistributedDataParallel, or with fsdp=True with "
        "a model that the processes share",
    ),
    "average_tokens_across_devices": (
        lambda value: not value,
        "cannot be False: every token weighs the same on every device; leave it out",
    ),
    "skip_memory_metrics": (
        lambda value: not value,
        "cannot be False; measure memory with torch.cuda.max_memory_allocated() or a callback",
    ),
}


def refusals(args: Any) -> list[str]:
    """Return one sentence for every argument that is set to something this engine does not honour."""
    return [
        f"{name}={getattr(args, name)!r} {advice}."
        for name, (is_set, advice) in REFUSED.items()
        if is_set(getattr(args, name))
    ]
