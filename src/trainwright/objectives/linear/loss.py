"""Cross-entropy of a linear layer, computed in chunks of rows, so that the logits are never built.

The gradient is computed with the loss (it is known up to the factor that the backward pass brings), so the projection
is done once: the idea of Liger's and Apple's kernels (arXiv:2410.10989, arXiv:2411.09009), in plain matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainwright.compat import keeps_graph
from trainwright.objectives.linear import card_products
from trainwright.objectives.linear.rows import TokenStatistics, row_losses, watch_part
from trainwright.parallel.layouts.boxes import RowSlice

CHUNK = 256  # rows whose logits exist at a time; more where the classes are few
_ELEMENTS = 2**21  # logits of a chunk with few classes
_KEPT = 2**24  # logits whose gradient is kept for the backward pass (64 MB), and not computed again


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of -log softmax(bent(scale · (hidden · weightᵀ + bias)))[target], bent(z) = cap · tanh(z / cap)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: float,
        cap: float | None,
        watch: TokenStatistics | None,
        held: RowSlice | None,
    ) -> torch.Tensor:
        """Return the sum of the losses, and keep the gradients of those inputs that need one.

        Args:
            ctx: autograd's.
            hidden: shape (rows, width).
            weight: shape (classes, width).
            bias: shape (classes,), or None.
            targets: class indices, shape (rows,).
            scale: factor of the logits.
            cap: bound of the logits, or None.
            watch: filled with what else is noted of every row, or None.
            held: which of the classes weight and bias are those of, where processes divide them: each computes the loss
                of all rows, and of the gradient of `hidden` what its classes add; None for all.
        """
        rows, matrix, exact = products(hidden, weight)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        needed = ctx.needs_input_grad
        ctx.gradients = empty_gradients(rows, weight, bias, needed, exact)
        size = chunk_size(weight, held)
        room, into = room_for(rows, weight, exact, size), room_for(rows, weight, exact, size) if watch else None
        for part in chunks(rows, size):
            logits = logits_of(rows[part], matrix, bias, room)
            loss, gradient = row_losses(
                logits,
                targets[part],
                held,
                scale=scale,
                cap=cap,
                with_gradient=any(needed),
                watch=watch_part(watch, part),
                into=into,
            )
            total += loss.sum()
            if gradient is not None:
                add_products(ctx.gradients, gradient, rows, matrix, part)
        ctx.types = [value.dtype if value is not None else None for value in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> Any:
        """Return the kept gradients times the factor of the sum; they are given away where the graph is not kept."""
        return (*kept_gradients(ctx, factor), *[None] * 5)


def kept_gradients(ctx: Any, factor: torch.Tensor) -> list[torch.Tensor | None]:
    """Return the gradients that a forward pass has kept, times the factor of its sum, in the types of its inputs.

    They are given away where the graph is not kept.

    Raises:
        RuntimeError: they were given away before.
    """
    if (kept := ctx.gradients) is None:
        raise RuntimeError("The loss's gradient is asked for a second time; ask the first with retain_graph=True.")
    again = keeps_graph()
    ctx.gradients = kept if again else None
    times = torch.mul if again else torch.Tensor.mul_
    return [g if g is None else times(g, factor).to(kind) for g, kind in zip(kept, ctx.types, strict=True)]


class LinearLogProbs(torch.autograd.Function):
    """log softmax(bent(scale · (hidden · weightᵀ + bias)))[target] of every row, for losses that weigh rows apart.

    What the backward pass needs is kept where it is small, and computed again where it is not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: float,
        cap: float | None,
        watch: TokenStatistics | None,
        held: RowSlice | None,
    ) -> torch.Tensor:
        """Return the log-probabilities, shape (rows,); the arguments are those of `LinearCrossEntropy`."""
        rows, matrix, exact = products(hidden, weight)
        found = torch.empty(len(rows), dtype=exact, device=hidden.device)
        keep = any(ctx.needs_input_grad) and len(rows) * classes(weight, held) <= _KEPT
        size = chunk_size(weight, held)
        room, kept = room_for(rows, weight, exact, size), []
        into = room_for(rows, weight, exact, size) if watch else None
        for part in chunks(rows, size):
            logits = logits_of(rows[part], matrix, bias, room)
            losses, gradient = row_losses(
                logits,
                targets[part],
                held,
                scale=scale,
                cap=cap,
                with_gradient=keep,
                watch=watch_part(watch, part),
                into=torch.empty_like(logits) if keep else into,
            )
            found[part] = -losses
            kept.append(gradient)
        ctx.kept, ctx.settings = kept if keep else None, (scale, cap, held, size)
        ctx.save_for_backward(hidden, weight, bias, targets)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: torch.Tensor) -> Any:
        """Return the gradients for a factor of every row, shape (rows,)."""
        hidden, weight, bias, targets = ctx.saved_tensors
        rows, matrix, exact = products(hidden, weight)
        gradients = empty_gradients(rows, weight, bias, ctx.needs_input_grad, exact)
        (kept, ctx.kept), (scale, cap, held, size) = (ctx.kept, None), ctx.settings
        room = room_for(rows if kept is None else rows[:0], weight, exact, size)
        for number, part in enumerate(chunks(rows, size)):
            if kept is not None:
                gradient = kept[number]
            else:
                logits = logits_of(rows[part], matrix, bias, room)
                gradient = row_losses(logits, targets[part], held, scale=scale, cap=cap, with_gradient=True)[1]
            gradient.mul_(-factors[part, None])
            add_products(gradients, gradient, rows, matrix, part)
        types = [value.dtype if value is not None else None for value in (hidden, weight, bias)]
        return (*(g if g is None else g.to(t) for g, t in zip(gradients, types, strict=True)), *[None] * 5)


def products(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    """Return both factors of the matrix products in their number format, and the format of what is summed."""
    kind = compute_type(hidden)
    return hidden.to(kind), weight.to(kind), kind if kind.itemsize >= 4 else torch.float32


def classes(weight: torch.Tensor, held: RowSlice | None) -> int:
    """Return of how many classes a process has the logits; of several the most, so that all take the same chunks."""
    return len(weight) if held is None else held.most


def chunk_size(weight: torch.Tensor, held: RowSlice | None = None) -> int:
    """Return how many rows' logits exist at a time."""
    if card_products.is_used(weight):
        return card_products.rows_at_a_time(weight.device, classes(weight, held))
    return max(CHUNK, _ELEMENTS // classes(weight, held))


def chunks(rows: torch.Tensor, size: int) -> list[slice]:
    """Return the slices of rows whose logits exist at a time."""
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def room_for(rows: torch.Tensor, weight: torch.Tensor, exact: torch.dtype, size: int) -> torch.Tensor:
    """Return memory for a chunk's logits, shape (rows of a chunk, classes); all chunks use it, since the system takes
    longer to give and clear as much again than the softmax takes."""
    return rows.new_empty((min(size, len(rows)), len(weight)), dtype=exact)


def logits_of(rows: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, room: torch.Tensor) -> torch.Tensor:
    """Return a layer's outputs, shape (rows, classes), within `room`."""
    logits = room[: len(rows)]
    if logits.dtype == rows.dtype:
        torch.mm(rows, matrix.T, out=logits)
    elif card_products.is_used(rows):
        card_products.product(rows, matrix.T, logits)
    else:
        logits.copy_(rows @ matrix.T)
    return logits if bias is None else logits.add_(bias)


def empty_gradients(rows: torch.Tensor, weight: torch.Tensor, bias: Any, needed: Any, exact: torch.dtype) -> list[Any]:
    """Return room for the gradients of hidden states, weight and bias; None where none is wanted."""
    return [
        torch.empty_like(rows) if needed[0] else None,
        torch.zeros_like(weight, dtype=exact) if needed[1] else None,
        torch.zeros_like(bias, dtype=exact) if bias is not None and needed[2] else None,
    ]


def add_products(
    gradients: list[Any], gradient: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, part: slice
) -> None:
    """Add what a chunk's gradient means for the hidden states, the weight and the bias, where they are wanted."""
    of_hidden, of_weight, of_bias = gradients
    if of_bias is not None:
        of_bias += gradient.sum(0)
    low = gradient.to(rows.dtype)
    if of_hidden is not None:
        torch.matmul(low, matrix, out=of_hidden[part])
    if of_weight is not None and of_weight.dtype == low.dtype:
        of_weight.addmm_(low.T, rows[part])
    elif of_weight is not None and card_products.is_used(rows):
        card_products.add_product(of_weight, low.T, rows[part])
    elif of_weight is not None:
        of_weight += low.T @ rows[part]


def compute_type(hidden: torch.Tensor) -> torch.dtype:
    """Return the number format of the matrix products: autocast's where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    cap: float | None = None,
    watch: TokenStatistics | None = None,
    held: RowSlice | None = None,
) -> torch.Tensor:
    """Return the sum of the cross-entropies of a linear layer's outputs; see `LinearCrossEntropy`."""
    given = (hidden, weight, bias, targets, scale, cap, watch, held)
    total: torch.Tensor = LinearCrossEntropy.apply(*given)  # type: ignore[no-untyped-call]  # torch gives it no type
    return total


def linear_log_probs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    cap: float | None = None,
    watch: TokenStatistics | None = None,
    held: RowSlice | None = None,
) -> torch.Tensor:
    """Return the log-probability of every row's target, shape (rows,); see `LinearLogProbs`."""
    given = (hidden, weight, bias, targets, scale, cap, watch, held)
    log_probs: torch.Tensor = LinearLogProbs.apply(*given)  # type: ignore[no-untyped-call]  # torch gives it no type
    return log_probs
