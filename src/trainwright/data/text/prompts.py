"""Prompts that a model writes after, as rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trainwright.data.sources.formats import is_chat
from trainwright.data.text.encode import Steps
from trainwright.data.text.tokenize import TextRules


@dataclass(frozen=True)
class PromptRules(TextRules):
    """How prompts are tokenised: texts with the tokenizer's begin token, chats up to where the assistant writes."""

    COLUMNS = ("prompt_ids",)
    LEARNED = ("prompt_ids",)
    BEFORE: ClassVar[Mapping[str, str | None]] = {}

    @property
    def part(self) -> str:
        """Which tokens are learned, in words."""
        return "what is written after the prompts"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of a prompt."""
        prompt = row["prompt"]
        if is_chat(prompt):
            ids = yield from self._rendered_prompt(prompt, row)
        else:
            ids = yield from self._encode(prompt)
            after = self.marks[1]
            if after and ids[-len(after) :] == after:
                ids = ids[: -len(after)]  # a tokenizer that ends every text
        return {"prompt_ids": ids}
