"""Causal attention of one short document on a CPU: a softmax that is kept, between plain matrix products.

For documents of a few hundred tokens torch's own kernel takes half again as long, as it computes the softmax a second
time in the backward pass. In blocks of queries, so that nearly half of the products, those with later keys, are left
out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

BLOCK = 64  # queries at a time
_KEPT = 8  # tokens of a document per number of a head: its kept softmax has at most 4 times the size of its queries


def fits(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Whether a document is one that is faster so; queries of its last tokens and keys of all, shape (1, heads, tokens,
    width)."""
    length, width = key.shape[2:]
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and query.dtype == key.dtype
        and dropout == 0
        and BLOCK <= length <= _KEPT * width
        and not torch.compiler.is_compiling()
    )


class CausalAttention(torch.autograd.Function):
    """softmax(scale · query · keyᵀ) · value, where a token sees itself and those before it; queries are of the last
    tokens."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        """Return what every query has attended to; all are of shape (heads, tokens, width)."""
        heads, tokens, width = query.shape
        before = key.shape[1] - tokens
        scaled = query * scale
        found = value.new_empty(tokens, heads, width).transpose(0, 1)  # as the model goes on with it
        future = scaled.new_full((BLOCK, BLOCK), -math.inf).triu_(1)
        shares = []
        for start, end in _blocks(tokens):
            scores = torch.bmm(scaled[:, start:end], key[:, : before + end].transpose(1, 2))
            scores[:, :, before + start :] += future[: end - start, : end - start]
            shares.append(torch.softmax(scores, dim=-1, out=scores))
            found[:, start:end] = torch.bmm(scores, value[:, : before + end])
        ctx.scale, ctx.before = scale, before
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(scaled, key, value, *shares)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        """Return the gradients of query, key and value."""
        scaled, key, value, *shares = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(scaled), torch.zeros_like(key), torch.zeros_like(value)
        for (start, end), share in zip(_blocks(scaled.shape[1]), shares, strict=True):
            above, seen = upstream[:, start:end], ctx.before + end
            of_value[:, :seen].baddbmm_(share.transpose(1, 2), above)
            of_share = torch.bmm(above, value[:, :seen].transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_share, share, -1, share.dtype, grad_input=of_share)
            of_query[:, start:end] = torch.bmm(of_scores, key[:, :seen])
            of_key[:, :seen].baddbmm_(of_scores.transpose(1, 2), scaled[:, start:end])
        return of_query.mul_(ctx.scale), of_key, of_value, None


def _blocks(tokens: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, tokens)) for start in range(0, tokens, BLOCK)]


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Return causal attention within one document for which `fits` holds.

    Args:
        query: of the last tokens or of all, shape (1, heads, tokens, width).
        key: of all, shape (1, key heads, tokens, width); each serves as many heads in turn.
        value: as `key`.
        scale: factor of the products; 1 / sqrt(width) when not given.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    found: torch.Tensor = CausalAttention.apply(query[0], key[0], value[0], factor)  # type: ignore[no-untyped-call]  # torch gives it no type
    return found[None]
