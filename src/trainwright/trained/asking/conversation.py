"""A conversation with a model, turn by turn; what it writes comes as it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.trained.asking.prompts import Message
from trainwright.trained.asking.writer import Writer

_PART = "\ufffd"  # of a character whose other bytes are still to come


@dataclass
class Conversation:
    """What was said so far. A model without a chat template goes on with the last text alone.

    Attributes:
        writer: the model.
        system: the system prompt, or None.
        turns: the user's and the assistant's, one after the other.
        seed: of the random numbers; every answer has its own.
    """

    writer: Writer
    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    seed: int = 0
    _answers: int = 0

    @property
    def is_chat(self) -> bool:
        """Whether the model knows conversations."""
        return bool(getattr(self.writer.tokenizer, "chat_template", None))

    @property
    def messages(self) -> list[Message]:
        """All turns, the system's first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer to a text, piece by piece; it is a turn when it is over, or as far as it was taken.

        Raises:
            DataError: the conversation leaves the model no room to write; nothing was said then.
        """
        self.turns.append({"role": "user", "content": text})
        ids = self.writer.asker.ids(self.messages if self.is_chat else text)
        written: list[int] = []
        answer = ""
        self._answers += 1
        try:
            for token in self.writer.sampler.stream(ids, (self.seed, self._answers)):
                written.append(token)
                now = self.writer.text(written)
                if len(now) > len(answer) and not self._may_change(now):
                    piece, answer = now[len(answer) :], now
                    yield piece
            piece, answer = self.writer.text(written)[len(answer) :], self.writer.text(written)
            if piece:
                yield piece
        finally:
            if written:
                self.turns.append({"role": "assistant", "content": answer})
            else:
                self.turns.pop()

    def _may_change(self, text: str) -> bool:
        """Whether a text may end with a part of a character, or with the beginning of what ends an answer."""
        starts = (end[:length] for end in self.writer.stop for length in range(1, len(end)))
        return text.endswith((_PART, *starts))

    def undo(self) -> str | None:
        """Take the last question and its answer back; return the question, or None where there is none."""
        asked = [number for number, turn in enumerate(self.turns) if turn["role"] == "user"]
        if not asked:
            return None
        question = str(self.turns[asked[-1]]["content"])
        del self.turns[asked[-1] :]
        return question

    def reset(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.turns.clear()

    def save(self, file: Path) -> None:
        """Add the conversation to a file of JSON lines, as a row that can be learned from."""
        row: dict[str, Any] = {"messages": self.messages}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
