"""Batches of problems and answers: for an encoder-decoder, an encoder that chooses, and a decoder alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainwright.batch import IGNORED
from trainwright.data.text.text_collators import padded
from trainwright.errors import DataError


@dataclass(frozen=True)
class EncoderDecoderBatch:
    """Batches for models that read the problem with an encoder and write the answer with a decoder.

    decoder_input_ids are the answer without its last token, labels without its first; shape (rows, tokens).
    """

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some rows."""
        ids = [row["input_ids"] for row in rows]
        answers = [row["target_ids"] for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id, None),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, None),
            "decoder_input_ids": padded([one[:-1] for one in answers], self.pad_token_id, None),
            "decoder_attention_mask": padded([torch.ones_like(one[:-1]) for one in answers], 0, None),
            "labels": padded([one[1:] for one in answers], IGNORED, None),
        }


@dataclass(frozen=True)
class ClassBatch:
    """Batches for models that read the problem and choose one token; labels of shape (rows, 1)."""

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some rows.

        Raises:
            DataError: an answer is not one token.
        """
        batch = EncoderDecoderBatch(self.pad_token_id)(rows)
        if any(len(row["target_ids"]) != 3 for row in rows):
            longest = max(len(row["target_ids"]) for row in rows) - 2
            raise DataError(
                f"model_type encoder_classifier answers with one token, and an answer here has {longest}. Give "
                "model_type: generic, or make one token of the answer in the lexer (vocab.misc)."
            )
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "labels": batch["labels"][:, :1],
        }


def batches_for(model: Any, tokenizer: Any, given: Any) -> Any:
    """Return what makes batches for a kind of model, in place of what is made for an encoder-decoder; of one's own as
    it is."""
    if not isinstance(given, EncoderDecoderBatch):
        return given
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) == "trainwright_problem_classifier":
        return ClassBatch(tokenizer.pad_token_id)
    if getattr(config, "is_encoder_decoder", True):
        return given
    return DecoderBatch(tokenizer.pad_token_id, tokenizer.sep_token_id)


@dataclass(frozen=True)
class DecoderBatch:
    """Batches for models that read the problem and go on with the answer: `<s> problem [SEP] answer </s>`.

    The answer and its end are labels; shape (rows, tokens).
    """

    pad_token_id: int
    sep_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some rows."""
        prompts = [self.prompt(row["input_ids"]) for row in rows]
        answers = [row["target_ids"][1:] for row in rows]
        ids = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
        labels = [torch.cat([torch.full_like(p, IGNORED), a]) for p, a in zip(prompts, answers, strict=True)]
        return {
            "input_ids": padded(ids, self.pad_token_id, None),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, None),
            "labels": padded(labels, IGNORED, None),
        }

    def prompt(self, problem: torch.Tensor) -> torch.Tensor:
        """Return what the model is given before it writes an answer."""
        return torch.cat([problem[:-1], torch.tensor([self.sep_token_id])])
