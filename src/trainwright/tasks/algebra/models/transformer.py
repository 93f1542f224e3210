"""The encoder-decoder of `model_type: generic`: pre-norm, with any of four kinds of positions, decoded with a cache by
transformers' own `generate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from trainwright import compat
from trainwright.batch import IGNORED
from trainwright.tasks.algebra.models.embeddings import input_embedding


class ProblemTransformerConfig(PreTrainedConfig):
    """Sizes of a ProblemTransformer.

    Attributes:
        d_model: width, a multiple of both sides' heads.
        positions: learned or sinusoidal are added to the embeddings; rope turns queries and keys, those of the
            cross-attention too; none.
        max_position_embeddings: tokens of a side at most.
        embedding_dropout: `dropout` where it is None, as in the configuration of models that do not tell.
        init_std: of all matrices but the embeddings, which have 1/√d_model, and those of queries, keys and values.
    """

    model_type = "trainwright_problem_transformer"
    is_encoder_decoder: bool = True
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }

    vocab_size: int = 64
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    max_position_embeddings: int = 512
    positions: str = "learned"
    input_embedding_type: str = "token"
    embedding_layer_norm: bool = True
    dropout: float = 0.1
    embedding_dropout: float | None = None
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    activation_function: str = "gelu"
    init_std: float = 0.02

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"is_encoder_decoder": True, **given})  # False by default in transformers before 5.4


Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine of every position's angles, each of shape (tokens, width of a head / 2)."""


def angles(tokens: int, width: int, first: int, device: torch.device) -> torch.Tensor:
    """Return position times frequency (Vaswani et al. 2017, section 3.5), the first position `first`.

    Shape (tokens, width / 2).
    """
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    return torch.arange(first, first + tokens, device=device)[:, None] * rates


def waves(at: torch.Tensor) -> torch.Tensor:
    """Return sine and cosine of angles, side by side."""
    return torch.cat([at.sin(), at.cos()], dim=-1)


def turned(x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
    """Return queries or keys turned by their positions (RoPE: Su et al. 2021, equation 34)."""
    if rotation is None:
        return x
    cos, sin = rotation
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


class Positions(nn.Embedding):
    """A table of positions that is learned."""


class Projection(nn.Linear):
    """What queries, keys or values are made by."""


class Attention(nn.Module):
    """Attention of several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (Projection(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, rotation: Rotation | None, keys: Any, values: Any, mask: Any) -> torch.Tensor:
        """Return what the queries of `x`, of shape (rows, tokens, width), read."""
        query = turned(self.split(self.query(x)), rotation)
        drop = self.dropout if self.training else 0.0
        read = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=drop)
        out: torch.Tensor = self.out(read.transpose(1, 2).flatten(2))
        return out

    def memory(self, x: torch.Tensor, rotation: Rotation | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of tokens; shape (rows, heads, tokens, width / heads)."""
        return turned(self.split(self.key(x)), rotation), self.split(self.value(x))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, tokens, width) as (rows, heads, tokens, width / heads)."""
        parts: torch.Tensor = x.unflatten(-1, (self.heads, -1))
        return parts.transpose(1, 2)


@dataclass(frozen=True)
class Encoded:
    """A problem that was read: its vectors (rows, tokens, width), their rotation, and which of them may be seen."""

    states: torch.Tensor
    rotation: Rotation | None
    mask: torch.Tensor | None


class Layer(nn.Module):
    """One layer; every part reads a norm of the stream and adds to it. In the decoder it reads the problem too."""

    def __init__(self, config: ProblemTransformerConfig, heads: int, ffn: int, decoder: bool, index: int) -> None:
        super().__init__()
        width = config.d_model
        self.index = index
        self.attention, self.attention_norm = Attention(width, heads, config.attention_dropout), nn.LayerNorm(width)
        if decoder:
            self.cross, self.cross_norm = Attention(width, heads, config.attention_dropout), nn.LayerNorm(width)
        self.ffn_norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.activation = ACT2FN[config.activation_function]
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(
        self, x: torch.Tensor, rotation: Rotation | None, mask: Any, encoded: Encoded | None = None, cache: Any = None
    ) -> torch.Tensor:
        """Return the stream after this layer; shape (rows, tokens, width)."""
        read = self.attention_norm(x)
        keys, values = self.attention.memory(read, rotation)
        if cache is not None:
            keys, values = cache.self_attention_cache.update(keys, values, self.index)
        x = x + self.dropout(self.attention(read, rotation, keys, values, mask))
        if encoded is not None:
            keys, values = self._of_problem(encoded, cache)
            x = x + self.dropout(self.cross(self.cross_norm(x), rotation, keys, values, encoded.mask))
        inner = self.inner_dropout(self.activation(self.up(self.ffn_norm(x))))
        added: torch.Tensor = self.dropout(self.down(inner))
        return x + added

    def _of_problem(self, encoded: Encoded, cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the problem, made once for all tokens of an answer."""
        if cache is None:
            return self.cross.memory(encoded.states, encoded.rotation)
        if not cache.is_updated.get(self.index):
            cache.cross_attention_cache.update(*self.cross.memory(encoded.states, encoded.rotation), self.index)
            cache.is_updated[self.index] = True
        layer = cache.cross_attention_cache.layers[self.index]
        return layer.keys, layer.values


class Side(nn.Module):
    """Encoder or decoder: positions, layers and a last norm."""

    def __init__(self, config: ProblemTransformerConfig, decoder: bool) -> None:
        super().__init__()
        width = config.d_model
        layers, heads, ffn = (
            (config.decoder_layers, config.decoder_attention_heads, config.decoder_ffn_dim)
            if decoder
            else (config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim)
        )
        self.kind, self.head_width = config.positions, width // heads
        self.positions = Positions(config.max_position_embeddings, width) if self.kind == "learned" else None
        self.embedding_norm = nn.LayerNorm(width) if config.embedding_layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout if config.embedding_dropout is None else config.embedding_dropout)
        self.layers = nn.ModuleList(Layer(config, heads, ffn, decoder, i) for i in range(layers))
        self.norm = nn.LayerNorm(width)

    def placed(self, x: torch.Tensor, first: int) -> torch.Tensor:
        """Return embeddings of shape (rows, tokens, width) with their positions, the first at position `first`."""
        x = x * math.sqrt(x.shape[-1])
        if self.positions is not None:
            x = x + self.positions(torch.arange(first, first + x.shape[1], device=x.device))
        elif self.kind == "sinusoidal":
            at = angles(x.shape[1], x.shape[-1], first, x.device)
            x = x + waves(at).to(x.dtype)
        out: torch.Tensor = self.dropout(self.embedding_norm(x))
        return out

    def rotation(self, x: torch.Tensor, first: int) -> Rotation | None:
        """Return how queries and keys of `x` are turned, the first at position `first`."""
        if self.kind != "rope":
            return None
        at = angles(x.shape[1], self.head_width, first, x.device)
        return at.cos().to(x.dtype), at.sin().to(x.dtype)


class ProblemEncoder(Side):
    """Reads the problem; its embeddings are those of the answer too."""

    main_input_name = "input_ids"

    def __init__(self, config: ProblemTransformerConfig) -> None:
        super().__init__(config, decoder=False)
        self.tokens = input_embedding(config.input_embedding_type, config.vocab_size, config.d_model)
        if type(self.tokens) is not nn.Embedding:  # a module of the user's, with the weights that it has
            for part in self.tokens.modules():
                part._is_hf_initialized = True  # type: ignore[assignment]  # any attribute may be set

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **_: Any) -> BaseModelOutput:
        """Return the problem as vectors, shape (rows, tokens, width)."""
        x, mask = self.placed(self.tokens(input_ids), 0), key_mask(attention_mask)
        rotation = self.rotation(x, 0)
        for layer in self.layers:
            x = layer(x, rotation, mask)
        return BaseModelOutput(last_hidden_state=self.norm(x))


class AnswerDecoder(Side):
    """Writes the answer."""

    def forward(self, x: torch.Tensor, mask: Any, problem: torch.Tensor, problem_mask: Any, cache: Any) -> torch.Tensor:
        """Return the answer as vectors, shape (rows, tokens, width), from its embeddings."""
        first = cache.get_seq_length() if cache is not None else 0
        seen = torch.ones(x.shape[1], first + x.shape[1], dtype=torch.bool, device=x.device).tril(first)
        known = key_mask(mask)
        seen = seen if known is None else seen & known[..., : seen.shape[-1]]
        x = self.placed(x, first)
        rotation = self.rotation(x, first)
        encoded = Encoded(problem, self.rotation(problem, 0), key_mask(problem_mask))
        for layer in self.layers:
            x = layer(x, rotation, seen, encoded, cache)
        out: torch.Tensor = self.norm(x)
        return out


def key_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return a mask of (rows, tokens) as one over keys: (rows, 1, 1, tokens), True where a token may be seen."""
    return None if mask is None else mask.bool()[:, None, None]


class ProblemModel(PreTrainedModel):
    """What models of problems have in common: an encoder, a projection onto the vocabulary, and how both begin."""

    config_class = ProblemTransformerConfig
    encoder: ProblemEncoder
    head: nn.Linear

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights of a part; those of embeddings so that the stream begins near 1 in size, those of queries,
        keys and values as torch.nn.MultiheadAttention does for the three in one matrix (Glorot & Bengio 2010, equation
        16): with less, attention is all but even at first, and answers are found many hundred steps later."""
        if isinstance(module, Projection):
            bound = math.sqrt(6 / (4 * self.config.d_model))
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.init_std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Positions):
            tokens, width = module.weight.shape
            with torch.no_grad():
                module.weight.copy_(waves(angles(tokens, width, 0, module.weight.device)))
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of both sides."""
        return self.encoder.tokens

    def get_output_embeddings(self) -> nn.Linear:
        """Return the projection onto the vocabulary."""
        return self.head


class ProblemTransformer(ProblemModel, GenerationMixin):
    """An encoder that reads the problem, a decoder that writes the answer, and a projection onto the vocabulary."""

    def __init__(self, config: ProblemTransformerConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = ProblemEncoder(config), AnswerDecoder(config, decoder=True)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, *_: Any, **__: Any) -> ProblemEncoder:
        """Return the encoder; `generate` runs it once."""
        return self.encoder

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Seq2SeqLMOutput:
        """Return the logits of every token of the answer, shape (rows, tokens, vocabulary), and with labels the loss.

        Args:
            input_ids, attention_mask: the problem, (rows, tokens); 0 in the mask for padding.
            decoder_input_ids, decoder_attention_mask: the answer from `<s>` on, (rows, tokens).
            labels: the answer's next tokens, (rows, tokens), -100 where there is none.
            encoder_outputs, use_cache: of `generate`.
            others: of `generate` too, among them the cache, whatever it is called.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        cache = next((value for value in others.values() if isinstance(value, Cache)), None)
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        hidden = self.decoder(
            self.encoder.tokens(decoder_input_ids),
            decoder_attention_mask,
            encoder_outputs[0],
            attention_mask,
            cache,
        )
        logits = self.head(hidden)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
        return Seq2SeqLMOutput(loss=loss, logits=logits, **{compat.cache_field(): cache})
