"""Cross-entropy of a linear layer, computed in chunks of rows, so that the logits are never built.

The gradient is computed with the loss (it is known up to the factor that the backward pass brings), so the projection
is done once: the idea of Liger's and Apple's kernels (arXiv:2410.10989, arXiv:2411.09009), in plain matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

CHUNK = 256  # rows whose logits exist at a time; more where the classes are few
_ELEMENTS = 2**21  # logits of a chunk with few classes


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
        """
        kind = compute_type(hidden)
        exact = kind if kind.itemsize >= 4 else torch.float32
        rows, matrix = hidden.to(kind), weight.to(kind)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        needed = ctx.needs_input_grad
        ctx.gradients = [
            torch.empty_like(rows) if needed[0] else None,
            torch.zeros_like(weight, dtype=exact) if needed[1] else None,
            torch.zeros_like(bias, dtype=exact) if bias is not None and needed[2] else None,
        ]
        chunk = max(CHUNK, _ELEMENTS // len(weight))
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            logits = (rows[part] @ matrix.T).to(exact)
            if bias is not None:
                logits += bias
            loss, gradient = loss_and_gradient(logits, targets[part], scale, cap, any(needed))
            total += loss
            if gradient is not None:
                _add(ctx.gradients, gradient, rows, matrix, part)
        ctx.types = [value.dtype if value is not None else None for value in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> Any:
        """Return the kept gradients times the factor of the sum."""
        kept, ctx.gradients = ctx.gradients, None
        found = [g if g is None else g.mul_(factor).to(kind) for g, kind in zip(kept, ctx.types, strict=True)]
        return (*found, None, None, None)


def loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, scale: float, cap: float | None, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the sum of the cross-entropies of a layer's outputs, and its gradient to them; the outputs are used up.

    Args:
        logits: shape (rows, classes).
        targets: shape (rows,).
        scale: factor of the logits.
        cap: bound of the logits, or None.
        with_gradient: whether the gradient is wanted.
    """
    slope: Any = scale
    if scale != 1.0:
        logits *= scale
    if cap is not None:
        logits = logits.div_(cap).tanh_()
        slope = (1 - logits.square()).mul_(scale)
        logits *= cap
    wanted = targets[:, None]
    normalizer = torch.logsumexp(logits, dim=1, keepdim=True)
    loss = (normalizer - logits.gather(1, wanted)).sum()
    if not with_gradient:
        return loss, None
    gradient = logits.sub_(normalizer).exp_()  # softmax, and less 1 at the target
    gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
    return loss, gradient if cap is None and scale == 1.0 else gradient.mul_(slope)


def _add(gradients: list[Any], gradient: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, part: slice) -> None:
    """Add what a chunk's gradient means for the hidden states, the weight and the bias, where they are wanted."""
    of_hidden, of_weight, of_bias = gradients
    if of_bias is not None:
        of_bias += gradient.sum(0)
    low = gradient.to(rows.dtype)
    if of_hidden is not None:
        torch.matmul(low, matrix, out=of_hidden[part])
    if of_weight is not None and of_weight.dtype == low.dtype:
        of_weight.addmm_(low.T, rows[part])
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
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    cap: float | None = None,
) -> torch.Tensor:
    """Return the sum of the cross-entropies of a linear layer's outputs; see `LinearCrossEntropy`."""
    return LinearCrossEntropy.apply(hidden, weight, bias, targets, scale, cap)
