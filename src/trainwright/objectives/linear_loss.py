"""Cross-entropy of a linear layer, computed in chunks of rows, so that the logits are never built.

The gradient is computed with the loss (it is known up to the factor that the backward pass brings), so the projection
is done once: the idea of Liger's and Apple's kernels (arXiv:2410.10989, arXiv:2411.09009), in plain matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainwright.compat import keeps_graph
from trainwright.objectives import card_products

CHUNK = 256  # rows whose logits exist at a time; more where the classes are few
_ELEMENTS = 2**21  # logits of a chunk with few classes
_KEPT = 2**24  # logits whose gradient is kept for the backward pass (64 MB), and not computed again


TokenStatistics = dict[str, torch.Tensor]
"""What else is noted of every row, shape (rows,): `top1`, whether the target has the largest logit; `entropy` of the
prediction in nats; `mean_logit`; `log_sum_square`, the logarithm of the sum of squared probabilities."""


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
        """
        rows, matrix, exact = products(hidden, weight)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        needed = ctx.needs_input_grad
        ctx.gradients = empty_gradients(rows, weight, bias, needed, exact)
        room, into = room_for(rows, weight, exact), room_for(rows, weight, exact) if watch else None
        for part in chunks(rows, weight):
            logits = logits_of(rows[part], matrix, bias, room)
            loss, gradient = row_losses(
                logits,
                targets[part],
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
        return (*kept_gradients(ctx, factor), None, None, None, None)


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
    ) -> torch.Tensor:
        """Return the log-probabilities, shape (rows,); the arguments are those of `LinearCrossEntropy`."""
        rows, matrix, exact = products(hidden, weight)
        found = torch.empty(len(rows), dtype=exact, device=hidden.device)
        keep = any(ctx.needs_input_grad) and len(rows) * len(weight) <= _KEPT
        room, kept = room_for(rows, weight, exact), []
        into = room_for(rows, weight, exact) if watch else None
        for part in chunks(rows, weight):
            logits = logits_of(rows[part], matrix, bias, room)
            losses, gradient = row_losses(
                logits,
                targets[part],
                scale=scale,
                cap=cap,
                with_gradient=keep,
                watch=watch_part(watch, part),
                into=torch.empty_like(logits) if keep else into,
            )
            found[part] = -losses
            kept.append(gradient)
        ctx.kept, ctx.settings = kept if keep else None, (scale, cap)
        ctx.save_for_backward(hidden, weight, bias, targets)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: torch.Tensor) -> Any:
        """Return the gradients for a factor of every row, shape (rows,)."""
        hidden, weight, bias, targets = ctx.saved_tensors
        rows, matrix, exact = products(hidden, weight)
        gradients = empty_gradients(rows, weight, bias, ctx.needs_input_grad, exact)
        (kept, ctx.kept), (scale, cap) = (ctx.kept, None), ctx.settings
        room = room_for(rows if kept is None else rows[:0], weight, exact)
        for number, part in enumerate(chunks(rows, weight)):
            if kept is not None:
                gradient = kept[number]
            else:
                logits = logits_of(rows[part], matrix, bias, room)
                gradient = row_losses(logits, targets[part], scale=scale, cap=cap, with_gradient=True)[1]
            gradient.mul_(-factors[part, None])
            add_products(gradients, gradient, rows, matrix, part)
        types = [value.dtype if value is not None else None for value in (hidden, weight, bias)]
        return (*(g if g is None else g.to(t) for g, t in zip(gradients, types, strict=True)), None, None, None, None)


def products(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    """Return both factors of the matrix products in their number format, and the format of what is summed."""
    kind = compute_type(hidden)
    return hidden.to(kind), weight.to(kind), kind if kind.itemsize >= 4 else torch.float32


def chunk_size(weight: torch.Tensor) -> int:
    """Return how many rows' logits exist at a time."""
    if card_products.is_used(weight):
        return card_products.rows_at_a_time(weight)
    return max(CHUNK, _ELEMENTS // len(weight))


def chunks(rows: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    """Return the slices of rows whose logits exist at a time."""
    size = chunk_size(weight)
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def room_for(rows: torch.Tensor, weight: torch.Tensor, exact: torch.dtype) -> torch.Tensor:
    """Return memory for a chunk's logits, shape (rows of a chunk, classes); all chunks use it, since the system takes
    longer to give and clear as much again than the softmax takes."""
    return rows.new_empty((min(chunk_size(weight), len(rows)), len(weight)), dtype=exact)


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


def watch_part(watch: TokenStatistics | None, part: slice) -> TokenStatistics | None:
    """Return the rows of a chunk of what is noted; views."""
    return None if watch is None else {name: values[part] for name, values in watch.items()}


def row_losses(logits: torch.Tensor, targets: torch.Tensor, **how: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what `losses_of` does, compiled on a card that is proven to."""
    is_compiled = logits.is_cuda and card_products.is_used(logits)
    function = card_products.compiled(losses_of) if is_compiled else losses_of
    found: tuple[torch.Tensor, torch.Tensor | None] = function(logits, targets, **how)
    return found


def losses_of(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    scale: float,
    cap: float | None,
    with_gradient: bool,
    watch: TokenStatistics | None = None,
    into: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the cross-entropy of every row of a layer's outputs, and its gradient to them; the outputs are used up.

    Args:
        logits: shape (rows, classes).
        targets: shape (rows,).
        scale: factor of the logits.
        cap: bound of the logits, or None.
        with_gradient: whether the gradient is wanted.
        watch: filled in place, or None.
        into: memory for the gradient, of at least as many rows; None for that of the outputs, which `watch` needs.
    """
    slope: Any = scale
    if scale != 1.0:
        logits *= scale
    if cap is not None:
        logits = logits.div_(cap).tanh_()
        slope = (1 - logits.square()).mul_(scale)
        logits *= cap
    wanted = targets[:, None]
    highest = logits.amax(dim=1, keepdim=True)
    picked = logits.gather(1, wanted) - highest
    shares = torch.softmax(logits, dim=1, out=logits if into is None else into[: len(logits)])  # one pass over memory
    rest = -shares.amax(dim=1, keepdim=True).log()  # log Σ exp(z - highest), for the highest's share is 1 / Σ
    losses = (rest - picked).squeeze(1)
    if watch:
        _note(watch, logits, shares, rest=rest.squeeze(1), picked=picked.squeeze(1), highest=highest)
    if not with_gradient:
        return losses, None
    shares.scatter_add_(1, wanted, shares.new_full(wanted.shape, -1.0))  # softmax, and less 1 at the target
    return losses, shares if cap is None and scale == 1.0 else shares.mul_(slope)


def _note(
    watch: TokenStatistics,
    logits: torch.Tensor,
    shares: torch.Tensor,
    *,
    rest: torch.Tensor,
    picked: torch.Tensor,
    highest: torch.Tensor,
) -> None:
    """Fill in what is noted of every row, from the logits, which are used up, and their softmax."""
    if "top1" in watch:
        watch["top1"].copy_(picked >= 0)
    if "mean_logit" in watch:
        watch["mean_logit"].copy_(logits.mean(dim=1))
    if "entropy" in watch:  # -Σ p log p = log Σ exp z - Σ p z
        watch["entropy"].copy_(rest - logits.sub_(highest).mul_(shares).sum(dim=1))
    if "log_sum_square" in watch:
        watch["log_sum_square"].copy_(torch.mul(shares, shares, out=logits).sum(dim=1).log())


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


def new_watch(names: tuple[str, ...], like: torch.Tensor) -> TokenStatistics:
    """Return room for what is noted of every row of `like`."""
    return {name: torch.empty(len(like), device=like.device, dtype=torch.float32) for name in names}


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    cap: float | None = None,
    watch: TokenStatistics | None = None,
) -> torch.Tensor:
    """Return the sum of the cross-entropies of a linear layer's outputs; see `LinearCrossEntropy`."""
    given = (hidden, weight, bias, targets, scale, cap, watch)
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
) -> torch.Tensor:
    """Return the log-probability of every row's target, shape (rows,); see `LinearLogProbs`."""
    given = (hidden, weight, bias, targets, scale, cap, watch)
    log_probs: torch.Tensor = LinearLogProbs.apply(*given)  # type: ignore[no-untyped-call]  # torch gives it no type
    return log_probs
