"""Rows of an encoder-decoder: a text that is read, and a text that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from trainwright.batch import IGNORED
from trainwright.data.sources.formats import check_wanted
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import padded
from trainwright.data.text.tokenize import TextRules
from trainwright.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class SourceTarget(TextRules):
    """The tokens of `prompt` and of `completion`, each with the marks that the tokenizer has for texts that are read,
    or written; the second ends with the end token. Each is cut at a length of its own, the second in its batch.

    Attributes:
        source_prefix: what every text that is read begins with, such as T5's "translate English to German: ".
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("input_ids", "target_ids")
    LEARNED: ClassVar[tuple[str, ...]] = ("target_ids",)
    BEFORE: ClassVar[Mapping[str, str | None]] = {"input_ids": None}

    source_prefix: str = ""

    @property
    def part(self) -> str:
        """What is learned, in words."""
        return "the completion"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of both texts."""
        check_wanted(row)
        prompt = row["prompt"]
        if not prompt:  # nothing is written of nothing
            return {"input_ids": [], "target_ids": []}
        source = yield from self._encode(self.source_prefix + prompt if self.source_prefix else prompt)
        target = yield from self._encode(self._ended(row["completion"]), target=True)
        return {"input_ids": source, "target_ids": target}

    def _ended(self, text: str) -> str:
        end: str | None = self.tokenizer.eos_token
        if end is not None and self.tokenizer.eos_token_id in self.target_marks[1]:
            return text.removesuffix(end)  # the tokenizer sets it, perhaps before the mark of a language
        return super()._ended(text)


def check_languages(rules: SourceTarget) -> None:
    """Raise a ConfigError where a tokenizer marks what is written with its language, and is not told which that is."""
    tokenizer = rules.tokenizer
    asked = getattr(tokenizer, "tgt_lang", None)  # asking for marks sets it, in some tokenizers, to that of the sources
    for name, language in (("src_lang", getattr(tokenizer, "src_lang", None)), ("tgt_lang", asked)):
        try:
            marks = {one for some in (rules.marks if name == "src_lang" else rules.target_marks) for one in some}
        except KeyError:  # of a language
            marks = {tokenizer.unk_token_id}
        if name == "tgt_lang" and hasattr(tokenizer, name) and asked is None and marks - {tokenizer.eos_token_id}:
            raise ConfigError(
                f"{type(tokenizer).__name__} marks what is written with its language, and is not told which. Write "
                "model.tokenizer_kwargs: {src_lang: ..., tgt_lang: ...}."
            )
        if language is not None and tokenizer.unk_token_id in marks:
            known = [*getattr(tokenizer, "lang_code_to_token", ()), *tokenizer.all_special_tokens]
            raise ConfigError(
                f"model.tokenizer_kwargs.{name} '{language}' is no language that {type(tokenizer).__name__} knows."
                f"{did_you_mean(language, known)}"
            )


def begins_with(rules: SourceTarget) -> dict[str, int]:
    """Return the settings of generation by which what is written begins with the mark of its language: as its first
    token, or where the mark stands behind the end (mBART), as what decoding starts with."""
    tokenizer, (before, after) = rules.tokenizer, rules.target_marks
    if getattr(tokenizer, "tgt_lang", None) is None:
        return {}
    if before:
        return {"forced_bos_token_id": before[-1]}
    return {"decoder_start_token_id": after[-1]} if after and after[-1] != tokenizer.eos_token_id else {}


@dataclass(frozen=True)
class SourceTargetBatch:
    """input_ids and attention_mask of shape (rows, tokens), labels of shape (rows, target tokens).

    Attributes:
        pad_token_id: what rows are filled up with.
        multiple: that widths are rounded up to.
        longest: tokens of a target; the end of a longer one is left out.
    """

    pad_token_id: int
    multiple: int | None = None
    longest: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        ids = [row["input_ids"] for row in rows]
        targets = [row["target_ids"][: self.longest] for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded(targets, IGNORED, self.multiple),
        }
