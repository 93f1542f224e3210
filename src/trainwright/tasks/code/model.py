"""A Llama that learns fast on a small budget, by two cheap additions to its embeddings.

Embeddings of the last two and three tokens teach common spellings at once, which attention would learn late. The tables
are indexed by a hash, as in fastText (Bojanowski et al. 2017, arXiv:1607.04606, section 3.2).

A mixture with the position before lets one attention layer find "what followed this the last time" (an induction head,
Olsson et al. 2022, arXiv:2209.11895); without it, two layers must first learn to work together. The mixture is RWKV's
token shift (Peng et al. 2023, arXiv:2305.13048, section 3.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class NgramLlamaConfig(LlamaConfig):
    """LlamaConfig with the size of the tables.

    Args:
        ngram_buckets: rows of each table.
        ngram_orders: how many tokens each table sees.
    """

    model_type = "ngram_llama"

    def __init__(self, ngram_buckets: int = 16384, ngram_orders: tuple[int, ...] = (2, 3), **kwargs: Any) -> None:
        self.ngram_buckets = ngram_buckets
        self.ngram_orders = list(ngram_orders)
        super().__init__(**kwargs)


class NgramLlamaForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM on richer embeddings. It reads whole sequences, so it keeps no cache."""

    config_class = NgramLlamaConfig

    def __init__(self, config: NgramLlamaConfig) -> None:
        super().__init__(config)
        self.ngrams = nn.ModuleList(nn.Embedding(config.ngram_buckets, config.hidden_size) for _ in config.ngram_orders)
        self.before = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Return loss and logits; input_ids and labels have shape (rows, tokens)."""
        embeds = self.get_input_embeddings()(input_ids)
        for order, table in zip(self.config.ngram_orders, self.ngrams, strict=True):
            embeds = embeds + table(hashed(input_ids, order) % self.config.ngram_buckets)
        embeds = embeds + self.before(nn.functional.pad(embeds, (0, 0, 1, 0))[:, :-1])
        return super().forward(inputs_embeds=embeds, labels=labels, **{**kwargs, "use_cache": False})


def hashed(tokens: torch.Tensor, order: int) -> torch.Tensor:
    """Return a number for the `order` tokens that end at each position; int64, shape of tokens (rows, length)."""
    number = previous = tokens
    for _ in range(order - 1):
        previous = nn.functional.pad(previous, (1, 0))[:, :-1]
        number = (number * 31337 + previous * 27191 + 17) & 0x7FFFFFFF
    return number ^ (number >> 13)


AutoConfig.register(NgramLlamaConfig.model_type, NgramLlamaConfig)
AutoModelForCausalLM.register(NgramLlamaConfig, NgramLlamaForCausalLM)
