"""Attention within documents: several of them lie one after another in a single row, and none sees another.

It is an attention function of transformers' interface, so no model is patched. Where it is told of no documents it is
SDPA as transformers has it, so the same model evaluates padded batches with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainwright.models.kernels.attention import WITHOUT_PADDING, Attended, Documents, attend, band, default_kernel

NAME = "trainwright_documents"
_UNKNOWN = ("softcap", "position_bias", "s_aux", "cache")


@dataclass(frozen=True)
class FlatRows:
    """Tells a model that it has no padding to leave out.

    Attributes:
        device: where it computes.
        kernel: the name of what attends; None for the device's default.
        alone: whether this process computes the model by itself, and may call it when others do not.
    """

    device: torch.device
    kernel: str | None = None
    alone: bool = True

    @property
    def unpads(self) -> bool:
        """Whether rows with padding are better put one after another; a mask of all of them would cost more."""
        return (self.kernel or default_kernel(self.device)) in ("documents", *WITHOUT_PADDING)

    @property
    def goes_on(self) -> bool:
        """Whether a document may go on from another, and be tried against what it is by itself."""
        return self.alone and (self.kernel or default_kernel(self.device)) == "documents"

    def inputs(self, lengths: list[int] | None, begins: list[int | None] | None = None) -> dict[str, Any]:
        """Return what a model is told of the documents of its one row, and which they go on from; None for rows that
        are padded at their ends.

        A mask of four dimensions is one that transformers takes as it is: nothing is built, no padding looked for.
        """
        nothing = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device)
        return {"documents": Documents(lengths, self.kernel, begins), "attention_mask": nothing, "use_cache": False}


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention within each document.

    Args:
        module: the attention module.
        query: shape (rows, heads, tokens, width).
        key: shape (rows, key heads, tokens, width).
        value: shape (rows, key heads, tokens, width).
        attention_mask: used where there are no documents.
        dropout: probability of dropping an attention weight.
        scaling: factor of the products; 1 / sqrt(width) when not given.
        documents: those of the one row; or that every row is one; None for rows of any kind.
        sliding_window: how many tokens back a token sees, itself included.
        more: what other attentions are told.

    Returns:
        Shape (rows, tokens, heads, width), and None for the weights.
    """
    unknown = [name for name in _UNKNOWN if more.get(name) is not None] if documents is not None else []
    if unknown:
        raise ValueError(f"attention within documents has no {unknown[0]}")
    if documents is not None and documents.lengths is not None:
        return attend(Attended(query, key, value, scaling, sliding_window, dropout), documents), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if documents is not None:
        is_long = sliding_window is not None and query.shape[2] > sliding_window
        attention_mask = band(query[0, 0], sliding_window) if is_long else None
    found: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **more
    )
    return found
