"""The divergence of two linear layers' predictions, in chunks of rows, so that the logits of neither are built.

As in `linear/loss.py`, the gradient is computed with the value, so every product is done once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainwright.objectives.linear.loss import (
    add_products,
    chunk_size,
    chunks,
    empty_gradients,
    kept_gradients,
    logits_of,
    products,
    room_for,
)
from trainwright.objectives.linear.rows import bend


@dataclass(frozen=True)
class Layer:
    """What makes logits of hidden states: bent(scale · (hidden · weightᵀ + bias)), bent(z) = cap · tanh(z / cap).

    Attributes:
        hidden: shape (rows, width).
        weight: shape (classes, width).
        bias: shape (classes,), or None.
        scale: factor of the logits.
        cap: bound of the logits, or None.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None


class LinearDivergence(torch.autograd.Function):
    """Sum over rows of the generalised Jensen-Shannon divergence of student p and teacher t: with M = (1 - beta) p +
    beta t it is beta · KL(t‖M) + (1 - beta) · KL(p‖M) (arXiv:2306.13649, equation 1); for beta 0 KL(t‖p), for beta 1
    KL(p‖t)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        student: Layer,
        teacher: Layer,
        beta: float,
        temperature: float,
        entropy: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sum, and keep the gradients of those of the student's inputs that need one.

        Args:
            ctx: autograd's.
            hidden: the student's, shape (rows, width).
            weight: the student's, shape (classes, width).
            bias: the student's, shape (classes,), or None.
            student: the same, with scale and cap.
            teacher: of as many classes.
            beta: from 0 to 1.
            temperature: that the logits of both are divided by.
            entropy: filled with that of the student's prediction at every row, in nats; shape (rows,).
        """
        rows, matrix, exact = products(hidden, weight)
        others, other_matrix, _ = products(teacher.hidden, teacher.weight)
        needed = ctx.needs_input_grad
        ctx.gradients = empty_gradients(rows, weight, bias, needed, exact)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        size = chunk_size(weight)
        room, other_room = room_for(rows, weight, exact, size), room_for(others, teacher.weight, exact, size)
        for part in chunks(rows, size):
            own = logits_of(rows[part], matrix, bias, room)
            known = logits_of(others[part], other_matrix, teacher.bias, other_room)
            slope, _ = bend(own, student.scale, student.cap), bend(known, teacher.scale, teacher.cap)
            log_p, log_t = (one.div_(temperature).log_softmax(dim=1) for one in (own, known))
            value, gradient, entropy[part] = divergence(log_p, log_t, beta)
            total += value.sum()
            if any(needed):
                add_products(ctx.gradients, gradient.mul_(slope / temperature), rows, matrix, part)
        ctx.types = [value.dtype if value is not None else None for value in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: torch.Tensor) -> Any:
        """Return the kept gradients times the factor of the sum."""
        return (*kept_gradients(ctx, factor), None, None, None, None, None)


def divergence(
    log_p: torch.Tensor, log_t: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the divergence of every row, its gradient to the logits that `log_p` is the softmax of, and p's entropy.

    With M = (1 - beta) p + beta t the gradient is (1 - beta) · p · (log(p / M) - KL(p‖M)).

    Args:
        log_p: the student's log-probabilities, shape (rows, classes).
        log_t: the teacher's, of the same shape.
        beta: from 0 to 1.
    """
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=1)
    if beta == 0:
        t = log_t.exp()
        return (t * (log_t - log_p)).sum(dim=1), p - t, entropy
    if beta == 1:
        ratio = log_p - log_t
        value = (p * ratio).sum(dim=1)
        return value, p * (ratio - value[:, None]), entropy
    t = log_t.exp()
    log_m = torch.log((1 - beta) * p + beta * t)
    log_m = torch.where(log_m.isinf(), torch.maximum(log_p, log_t), log_m)  # where both are too small for a number
    ratio = log_p - log_m
    of_student = (p * ratio).sum(dim=1)
    value = beta * (t * (log_t - log_m)).sum(dim=1) + (1 - beta) * of_student
    return value, (1 - beta) * p * (ratio - of_student[:, None]), entropy


def linear_divergence(
    student: Layer, teacher: Layer, beta: float, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the rows' divergences, and the entropy of the student's predictions, shape (rows,)."""
    entropy = torch.empty(len(student.hidden), device=student.hidden.device)
    given = (student.hidden, student.weight, student.bias, student, teacher, beta, temperature, entropy)
    total: torch.Tensor = LinearDivergence.apply(*given)  # type: ignore[no-untyped-call]  # torch gives it no type
    return total, entropy
