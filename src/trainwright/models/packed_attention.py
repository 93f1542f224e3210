"""Attention within documents: several of them lie one after another in a single row, and none sees another.

It is an attention function of transformers' interface, so no model is patched. Without document lengths it is SDPA as
transformers has it, so the same model evaluates padded batches with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional

from trainwright.models.causal import causal_attention, fits

NAME = "trainwright_documents"
_flat: ContextVar[bool] = ContextVar("_flat", default=False)
_UNKNOWN = ("softcap", "position_bias", "s_aux", "cache")


@contextmanager
def flat_rows() -> Iterator[None]:
    """Let models called inside build no attention mask: the lengths of the documents say it all."""
    token = _flat.set(True)
    try:
        yield
    finally:
        _flat.reset(token)


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, document_mask)


def document_mask(*given: Any, **named: Any) -> torch.Tensor | None:
    """Return no mask for flat rows, else that of SDPA."""
    from transformers.masking_utils import sdpa_mask

    return None if _flat.get() else sdpa_mask(*given, **named)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    document_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention within each document.

    Args:
        module: the attention module.
        query: shape (1, heads, tokens, width).
        key: shape (1, key heads, tokens, width).
        value: shape (1, key heads, tokens, width).
        attention_mask: None for flat rows.
        dropout: probability of dropping an attention weight.
        scaling: factor of the products; 1 / sqrt(width) when not given.
        document_lengths: tokens of every document, in order; None for padded rows.
        sliding_window: how many tokens back a token sees, itself included.
        more: what other attentions are told.

    Returns:
        Shape (1, tokens, heads, width), and None for the weights.
    """
    if document_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **more
        )
        return found
    unknown = [name for name in _UNKNOWN if more.get(name) is not None]
    if unknown:
        raise ValueError(f"attention within documents has no {unknown[0]}")
    attended = []
    for q, k, v in zip(*(part.split(document_lengths, dim=2) for part in (query, key, value)), strict=True):
        band = _band(q, sliding_window)
        if band is None and fits(q, k, dropout):
            one = causal_attention(q, k, v, scaling)
        else:
            grouped = q.shape[1] != k.shape[1]
            one = functional.scaled_dot_product_attention(
                q, k, v, band, dropout, is_causal=band is None, scale=scaling, enable_gqa=grouped
            )
        attended.append(one.transpose(1, 2))
    return torch.cat(attended, dim=1), None


def _band(query: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Return the mask of a sliding window, shape (tokens, tokens), where the document is longer than it."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
