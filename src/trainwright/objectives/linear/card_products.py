"""How the chunks of a linear layer's loss are cut and multiplied on a card: as many rows as its memory bears, products
of half formats with sums in float32, and the softmax compiled.

It is a card's default once its test has passed on such a card, which `PASSED` records; until then chunks are those of a
CPU. `as_on_card` has it anywhere, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

_SHARE = 64  # of a card's memory, for the logits of a chunk: 1.2 GB of 80
_WITHOUT_CARD = 2**21  # bytes of them, where a test has it on a CPU


class Passed(NamedTuple):
    """Where the test has passed, by the beginning of the card's name and of torch's version."""

    card: str
    torch: str


PASSED = (Passed("NVIDIA H200", "2.11"),)
_asked = False


@contextmanager
def as_on_card() -> Iterator[None]:
    """Compute as on a card within the body, whatever the device; also in backward passes, which have threads."""
    global _asked
    before, _asked = _asked, True
    try:
        yield
    finally:
        _asked = before


def is_used(tensor: torch.Tensor) -> bool:
    """Whether a tensor's losses are computed so."""
    if _asked or not (PASSED and tensor.is_cuda):
        return _asked
    card = torch.cuda.get_device_name(tensor.device)
    return any(card.startswith(one.card) and torch.__version__.startswith(one.torch) for one in PASSED)


def rows_at_a_time(device: torch.device, classes: int) -> int:
    """Return how many rows' logits, float32, exist at a time; the same on every card of a kind, so that a resumed run
    sums as before."""
    room = _WITHOUT_CARD
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory // _SHARE
    return max(1, room // (4 * classes))


def product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Write a product of matrices of a half format into one of float32, in which it is summed."""
    if left.is_cuda:
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    else:
        torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a product of matrices of a half format to one of float32."""
    if left.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))


def compiled(function: Callable[..., Any], made: dict[Any, Any] = {}) -> Callable[..., Any]:  # noqa: B006  kept
    """Return a function of tensors compiled, once for chunks of any size."""
    found: Callable[..., Any] = made.setdefault(function, torch.compile(function, dynamic=True))
    return found
