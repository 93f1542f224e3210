"""What computes attention within documents that lie in one row: one table, and which entry a device gets.

A kernel of a GPU becomes a card's default once its test on such a card has passed, which `PASSED` records; until then
documents are kept apart there by a mask, as transformers does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from trainwright.compat import takes_grouped
from trainwright.devices import moved
from trainwright.models.kernels.causal import causal_attention, fits

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Documents:
    """Documents one after another in a row, and what kernels are told of them, made once for all layers.

    Attributes:
        lengths: tokens of every document, in order; None where every row is one, padded at its end.
        kernel: the name of what attends; None for the device's default.
        begins: of every document, which one it goes on from, or None; only the kernel `documents` knows of these. None
            where none does.
    """

    lengths: list[int] | None = None
    kernel: str | None = None
    begins: list[int | None] | None = None
    _made: dict[Any, Any] = field(default_factory=dict)

    def ends(self, device: torch.device) -> torch.Tensor:
        """Return where every document begins, and the last ends; int32, shape (documents + 1,)."""
        ends: torch.Tensor = self._once(
            "ends", lambda: moved(torch.tensor([0, *(self.lengths or ())]).cumsum(0).int(), device)
        )
        return ends

    def numbers(self, device: torch.device) -> torch.Tensor:
        """Return the document of every token, shape (tokens,)."""
        lengths = torch.tensor(self.lengths)
        numbers: torch.Tensor = self._once(
            "numbers", lambda: moved(torch.arange(len(lengths)).repeat_interleave(lengths), device)
        )
        return numbers

    def mask(self, device: torch.device, window: int | None) -> torch.Tensor:
        """Return which tokens each sees: those before it in its document, of a sliding window; (tokens, tokens)."""
        numbers = self.numbers(device)
        mask: torch.Tensor = self._once(
            ("mask", window), lambda: (numbers[:, None] == numbers).logical_and_(band(numbers, window))
        )
        return mask

    def blocks(self, device: torch.device, window: int | None) -> Any:
        """Return the same for flex attention, as blocks of which whole ones are left out."""
        from torch.nn.attention.flex_attention import create_block_mask

        numbers = self.numbers(device)

        def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            near = query - key < window if window is not None else query >= key
            return (numbers[query] == numbers[key]) & (query >= key) & near

        def made() -> Any:
            return create_block_mask(sees, None, None, len(numbers), len(numbers), device=device)

        return self._once(("blocks", window), made)

    def _once(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


class Attended(NamedTuple):
    """Queries, keys and values of shape (1, heads, tokens, width), of which keys and values may have fewer heads, and
    how they are attended to."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float | None = None
    window: int | None = None
    dropout: float = 0.0

    @property
    def grouped(self) -> bool:
        """Whether a head of keys serves several of queries."""
        return self.query.shape[1] != self.key.shape[1]

    def repeated(self) -> Attended:
        """Return the same with as many heads of keys and values as of queries."""
        times = self.query.shape[1] // self.key.shape[1]
        return self._replace(
            key=self.key.repeat_interleave(times, dim=1), value=self.value.repeat_interleave(times, dim=1)
        )

    def flat(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values as (tokens, heads, width)."""
        return (
            self.query[0].transpose(0, 1).contiguous(),
            self.key[0].transpose(0, 1).contiguous(),
            self.value[0].transpose(0, 1).contiguous(),
        )


def band(like: torch.Tensor, window: int | None, before: int = 0) -> torch.Tensor:
    """Return which tokens each of a row sees: itself and those before it, of a sliding window; `before` more than the
    row has stand before it; shape (tokens, before + tokens)."""
    seen = torch.ones(len(like), before + len(like), dtype=torch.bool, device=like.device).tril(before)
    return seen if window is None else seen.triu(before + 1 - window)


def by_document(a: Attended, documents: Documents) -> torch.Tensor:
    """Attend to one document after another; shape (1, tokens, heads, width), as of all kernels."""
    attended = []
    queries, keys, values = (part.split(documents.lengths, dim=2) for part in (a.query, a.key, a.value))
    for number, (query, key, value) in enumerate(zip(queries, keys, values, strict=True)):
        begin = None if documents.begins is None else documents.begins[number]
        if begin is not None:
            key, value = torch.cat([keys[begin], key], dim=2), torch.cat([values[begin], value], dim=2)
        before = key.shape[2] - query.shape[2]
        narrow = a.window is not None and key.shape[2] > a.window
        if not narrow and fits(query, key, a.dropout):
            one = causal_attention(query, key, value, a.scale)
        else:
            mask = band(query[0, 0], a.window, before) if narrow or before else None
            one = functional.scaled_dot_product_attention(
                query, key, value, mask, a.dropout, is_causal=mask is None, scale=a.scale, enable_gqa=a.grouped
            )
        attended.append(one.transpose(1, 2))
    return torch.cat(attended, dim=1)


def by_mask(a: Attended, documents: Documents) -> torch.Tensor:
    """Attend to all tokens, those of other documents masked."""
    mask = documents.mask(a.query.device, a.window)
    found = functional.scaled_dot_product_attention(
        a.query, a.key, a.value, mask, a.dropout, scale=a.scale, enable_gqa=a.grouped
    )
    return found.transpose(1, 2)


def by_varlen(a: Attended, documents: Documents) -> torch.Tensor:
    """Attend by torch's own kernel for rows of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = documents.ends(a.query.device), max(documents.lengths or ())
    window = (-1 if a.window is None else a.window - 1, 0)
    grouped: dict[str, Any] = {"enable_gqa": a.grouped} if takes_grouped(varlen_attn) else {}
    given = a.flat() if grouped or not a.grouped else a.repeated().flat()
    found = varlen_attn(*given, ends, ends, longest, longest, scale=a.scale, window_size=window, **grouped)
    return found[None]  # type: ignore[call-overload]  # one tensor, as nothing else is asked for


def by_flash(a: Attended, documents: Documents) -> torch.Tensor:
    """Attend by the package flash-attn."""
    from flash_attn import flash_attn_varlen_func

    ends, longest = documents.ends(a.query.device), max(documents.lengths or ())
    window = (-1, -1) if a.window is None else (a.window - 1, 0)
    found: torch.Tensor = flash_attn_varlen_func(
        *a.flat(), ends, ends, longest, longest, dropout_p=a.dropout, softmax_scale=a.scale, causal=True,
        window_size=window,
    )  # fmt: skip
    return found[None]


def by_flex(a: Attended, documents: Documents) -> torch.Tensor:
    """Attend by flex attention, compiled where the device is no CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    attend = flex_attention if a.query.device.type == "cpu" else _compiled(flex_attention)
    blocks = documents.blocks(a.query.device, a.window)
    found: torch.Tensor = attend(a.query, a.key, a.value, block_mask=blocks, scale=a.scale, enable_gqa=a.grouped)
    return found.transpose(1, 2)


def _compiled(function: Any, made: dict[Any, Any] = {}) -> Any:  # noqa: B006  kept for all layers and steps
    return made.setdefault(function, torch.compile(function, dynamic=True))


def _half_on_cuda(a: Attended, package: str) -> str | None:
    if a.query.device.type != "cuda":
        return f"it runs on CUDA, not on {a.query.device.type}"
    if a.query.dtype not in _HALF:
        return f"it computes in float16 and bfloat16, not in {a.query.dtype}"
    if a.query.shape[-1] > 256 or a.query.shape[-1] % 8:
        return f"heads are {a.query.shape[-1]} wide, not a multiple of 8 up to 256"
    return None if find_spec(package) is not None else f"{package} is not installed"


def _no_varlen(a: Attended) -> str | None:
    return "it has no dropout" if a.dropout else _half_on_cuda(a, "torch.nn.attention.varlen")


def _no_flex(a: Attended) -> str | None:
    if a.dropout:
        return "it has no dropout"
    of_gradient = any(part.requires_grad for part in (a.query, a.key, a.value))
    return "on a CPU it has no backward pass" if a.query.device.type == "cpu" and of_gradient else None


class Kernel(NamedTuple):
    """A way to attend within documents.

    Attributes:
        attend: computes it.
        cannot: why it cannot for some tensors, or None where it can.
    """

    attend: Callable[[Attended, Documents], torch.Tensor]
    cannot: Callable[[Attended], str | None] = lambda a: None


KERNELS = {  # the first that a card can, and was proven to, is its default
    "varlen": Kernel(by_varlen, _no_varlen),
    "flash_attn": Kernel(by_flash, lambda a: _half_on_cuda(a, "flash_attn")),
    "flex": Kernel(by_flex, _no_flex),
    "mask": Kernel(by_mask),
    "documents": Kernel(by_document),
}
WITHOUT_PADDING = ("varlen", "flash_attn", "flex")  # which take no time for what a mask would leave out


class Passed(NamedTuple):
    """A kernel whose test has passed on a card, by the beginning of the card's name and of torch's version."""

    kernel: str
    card: str
    torch: str


PASSED = (  # flex attention passed there too, and is slower than a mask
    Passed("varlen", "NVIDIA H200", "2.11"),
    Passed("documents", "NVIDIA H200", "2.11"),
)


def default_kernels(device: torch.device) -> list[str]:
    """Return the names of what attends on a device, of which the first that can does; a mask always can."""
    if device.type == "cpu":
        return ["documents"]
    if device.type != "cuda":
        return ["mask"]
    card = torch.cuda.get_device_name(device)
    known = {one.kernel for one in PASSED if card.startswith(one.card) and torch.__version__.startswith(one.torch)}
    return [*(name for name in KERNELS if name in known), "mask"]


def default_kernel(device: torch.device) -> str:
    """Return the name of what attends on a device, where it can."""
    return default_kernels(device)[0]


def attend(a: Attended, documents: Documents) -> torch.Tensor:
    """Return causal attention within each document, shape (1, tokens, heads, width).

    Raises:
        ValueError: the kernel that was asked for cannot compute it.
    """
    if documents.kernel is not None and (reason := KERNELS[documents.kernel].cannot(a)) is not None:
        raise ValueError(f"attention by '{documents.kernel}' cannot be had: {reason}")
    names = default_kernels(a.query.device) if documents.kernel is None else [documents.kernel]
    return next(KERNELS[name] for name in names if KERNELS[name].cannot(a) is None).attend(a, documents)
