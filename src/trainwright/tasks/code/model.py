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
from transformers.cache_utils import Cache

from trainwright.errors import ConfigError


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
    """LlamaForCausalLM on richer embeddings."""

    config_class = NgramLlamaConfig

    def __init__(self, config: NgramLlamaConfig) -> None:
        super().__init__(config)
        self.ngrams = nn.ModuleList(nn.Embedding(config.ngram_buckets, config.hidden_size) for _ in config.ngram_orders)
        self.before = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return loss and logits.

        Args:
            input_ids, labels, attention_mask: whole rows from their first token on, (rows, tokens).
            inputs_embeds: in place of input_ids what `embedded` makes of them, (rows, tokens, width).
            kwargs: what else a Llama takes.

        Raises:
            ConfigError: a cache and input_ids; the tokens before them would be unknown.
        """
        if inputs_embeds is None:
            if any(isinstance(value, Cache) and value.get_seq_length() for value in kwargs.values()):
                raise ConfigError(
                    "NgramLlamaForCausalLM embeds a token by those before it, so it cannot go on from a cache with "
                    "input_ids alone; use generate, or give inputs_embeds: those of embedded() at the new tokens."
                )
            inputs_embeds = self.embedded(input_ids, attention_mask)  # type: ignore[arg-type]  # one of the two is given
        return super().forward(attention_mask=attention_mask, inputs_embeds=inputs_embeds, labels=labels, **kwargs)

    def embedded(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return embeddings of rows from their first token on; what the mask hides counts as nothing before it.

        Shape (rows, tokens, width); the mask may have any other shape than (rows, tokens), and is not read then.
        """
        hidden = None
        if attention_mask is not None and attention_mask.shape == input_ids.shape:
            hidden = attention_mask == 0
        tokens = input_ids if hidden is None else input_ids.masked_fill(hidden, 0)
        embeds: torch.Tensor = self.get_input_embeddings()(input_ids)
        for order, table in zip(self.config.ngram_orders, self.ngrams, strict=True):
            embeds = embeds + table(hashed(tokens, order) % self.config.ngram_buckets)
        seen = embeds if hidden is None else embeds.masked_fill(hidden[..., None], 0)
        before: torch.Tensor = self.before(nn.functional.pad(seen, (0, 0, 1, 0))[:, :-1])
        return embeds + before

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what `generate` gives forward: embeddings of the tokens that are not in the cache yet."""
        given = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        new = given.pop("input_ids").shape[1]
        first = max(0, input_ids.shape[1] - new - max(self.config.ngram_orders))
        mask = kwargs.get("attention_mask")
        embeds = self.embedded(input_ids[:, first:], None if mask is None else mask[:, first:])
        return {**given, "inputs_embeds": embeds[:, -new:]}


def hashed(tokens: torch.Tensor, order: int) -> torch.Tensor:
    """Return a number for the `order` tokens that end at each position; int64, shape of tokens (rows, length)."""
    number = previous = tokens
    for _ in range(order - 1):
        previous = nn.functional.pad(previous, (1, 0))[:, :-1]
        number = (number * 31337 + previous * 27191 + 17) & 0x7FFFFFFF
    return number ^ (number >> 13)


AutoConfig.register(NgramLlamaConfig.model_type, NgramLlamaConfig)
AutoModelForCausalLM.register(NgramLlamaConfig, NgramLlamaForCausalLM)
