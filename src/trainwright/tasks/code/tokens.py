"""Text becomes rows of tokens: a byte-level BPE tokenizer of its own, and blocks of equal length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

END = "<|end|>"


def train_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """Return a byte-level BPE tokenizer (Sennrich et al. 2016) learned from the texts; any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return new_tokenizer(inner.to_str())


def new_tokenizer(text: str) -> Any:
    """Return the tokenizer that a text in the format of the library tokenizers describes."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), eos_token=END, bos_token=END, pad_token=END
    )


def encode(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Return all texts as one row of tokens, each followed by the end token; int64, shape (tokens,)."""
    end = tokenizer.eos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    return np.concatenate([np.array([*one.ids, end], dtype=np.int64) for one in encoded])


class Blocks(torch.utils.data.Dataset[Any]):
    """Blocks of one long row of tokens, each a step further; only tokens not predicted before are targets.

    With `step` = `length`, the blocks stand side by side. With a smaller step they overlap: every token is a target
    once, with at least `length - step` tokens before it.
    """

    def __init__(self, tokens: np.ndarray, length: int, step: int) -> None:
        self.tokens = torch.from_numpy(tokens)
        self.length = length
        self.step = step

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length) // self.step + 1)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self.tokens[index * self.step : index * self.step + self.length]
        labels = block.clone()
        if index > 0 and self.step < self.length:
            labels[: self.length - self.step] = -100
        return {"input_ids": block, "labels": labels}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self[index] for index in range(len(self)))


def bits_per_byte(nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """Return the loss in bits per byte of text: nats × tokens / bytes / ln 2."""
    return nats_per_token * tokens / text_bytes / float(np.log(2))
