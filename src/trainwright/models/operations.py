"""What training a transformer costs in floating point operations, counted from its own shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from trainwright.models.inspect import base_model, is_pretrained

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "moe_topk", "top_k")


@dataclass(frozen=True)
class Operations:
    """The products of a model's forward pass, from which its operations follow.

    A product of numbers is two operations, a multiplication and an addition. The backward pass has as many for the
    gradient of what comes in, and as many for those of the weights that are trained. Attention counts whole squares of
    its documents, as is usual (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), and what is computed again in the
    backward pass does not count.

    Attributes:
        weights: products of a token with weights; of experts, those that it is sent to.
        trained: those with weights that are trained.
        attention: of every layer that attends, (products of a token with one that it sees, how far back that is, or
            None for no limit).
    """

    weights: float
    trained: float
    attention: tuple[tuple[int, int | None], ...]

    def forward(self, lengths: Iterable[int]) -> float:
        """Return the operations of a forward pass over documents of so many tokens."""
        return sum(2 * self.weights * tokens + 2 * self._pairs(tokens) for tokens in lengths)

    def training(self, lengths: Iterable[int]) -> float:
        """Return the operations of a forward and a backward pass over documents of so many tokens."""
        weights = 4 * self.weights + 2 * self.trained
        return sum(weights * tokens + 6 * self._pairs(tokens) for tokens in lengths)

    def _pairs(self, tokens: int) -> float:
        return sum(products * tokens * min(tokens, reach or tokens) for products, reach in self.attention)


def operations_of(model: nn.Module) -> Operations | None:
    """Return what a model of transformers costs, or None where its shapes do not tell: encoders with decoders, and
    inputs that are no tokens."""
    inner: Any = base_model(model)
    if not is_pretrained(inner) or inner.config.is_encoder_decoder or inner.main_input_name != "input_ids":
        return None
    config = inner.config.get_text_config()
    heads, width = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if not heads or not width:
        return None
    products = [(many, is_trained) for many, is_trained in _products(model, inner, config)]
    per_head = getattr(config, "head_dim", None) or width // heads
    reaches = _reaches(config)
    return Operations(
        weights=sum(many for many, _ in products),
        trained=sum(many for many, is_trained in products if is_trained),
        attention=tuple((2 * heads * per_head, reach) for reach in reaches),  # with keys, and with values
    )


def _products(model: nn.Module, inner: Any, config: Any) -> Iterator[tuple[float, bool]]:
    """Yield of every matrix how many of its numbers a token is multiplied with, and whether it is trained.

    A table of embeddings is looked up, unless it is the output layer too.
    """
    experts, chosen = (
        next((n for one in names if (n := getattr(config, one, None))), 1) for names in (_EXPERTS, _CHOSEN)
    )
    head = inner.get_output_embeddings()
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding) and part is not head:
            continue
        share = chosen / experts if ".experts." in f".{name}." and not name.endswith("shared_experts") else 1.0
        if isinstance(part, nn.Linear):  # also one whose weight is quantized, and has another shape
            yield part.in_features * part.out_features * share, part.weight.requires_grad
            continue
        for weight in part.parameters(recurse=False):
            if weight.ndim > 1:
                yield weight.numel() * share, weight.requires_grad


def _reaches(config: Any) -> list[int | None]:
    """Return how far back each layer that attends sees."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        limited = window is not None and getattr(config, "use_sliding_window", True)
        return [window if limited else None] * config.num_hidden_layers
    return [
        window if kind == "sliding_attention" else None
        for kind in kinds
        if kind.endswith("attention") and "linear" not in kind
    ]
