"""What a model is asked: texts and conversations as tokens, and what ends an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainwright.data.sources.formats import canonical, is_chat
from trainwright.data.text import chat
from trainwright.data.text.encode import marks_of
from trainwright.errors import ConfigError, DataError

Message = dict[str, Any]
_SENTINEL = "\u2402answer\u2403"
_ASSISTANTS = ("assistant", "tool")


@dataclass(frozen=True)
class Asker:
    """Makes tokens of what a model is asked.

    Attributes:
        tokenizer: its tokenizer.
        system: what the conversation begins with, where it has no system's turn of its own; None for nothing.
        as_chat: whether a text is what a user says, and not the beginning of what the model goes on with.
        template: further variables of the chat template.
    """

    tokenizer: Any
    system: str | None = None
    as_chat: bool = False
    template: Mapping[str, Any] | None = None

    def ids(self, prompt: str | Sequence[Message]) -> list[int]:
        """Return the tokens after which the model writes.

        Raises:
            ConfigError: it is a conversation, and the tokenizer has no chat template.
        """
        if isinstance(prompt, str) and not self.as_chat:
            if self.system is not None:
                raise ConfigError("A system prompt is of conversations, and these prompts are texts; --chat says so.")
            return [*marks_of(self.tokenizer)[0], *self._bare(prompt)]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.system is not None and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        return self._bare(up_to_the_answer(self.tokenizer, messages, self.template or {}))

    def _bare(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def up_to_the_answer(tokenizer: Any, messages: list[Message], template: Mapping[str, Any]) -> str:
    """Return a conversation as text up to where the assistant begins to write.

    A template may take no notice of `add_generation_prompt`; what it writes before an assistant's turn follows then.

    Raises:
        ConfigError: there is no template.
        DataError: the template refuses the conversation.
    """
    asked, plain = (chat.render(tokenizer, messages, prompt=prompt, **template) for prompt in (True, False))
    if asked != plain or messages[-1].get("role") in _ASSISTANTS:
        return asked
    answered = chat.render(tokenizer, [*messages, {"role": "assistant", "content": _SENTINEL}], **template)
    before = answered.partition(_SENTINEL)[0]
    return before.rstrip(" ") if before.startswith(asked) else asked


def prompt_of(row: Mapping[str, Any], number: int) -> str | list[Message]:
    """Return what a row asks: its `prompt`, its `messages` up to the assistant's last turn, or its `text`.

    Raises:
        DataError: it has none of these.
    """
    given = canonical(row, number)
    if isinstance(given.get("prompt"), str) or is_chat(given.get("prompt")):
        asked: str | list[Message] = given["prompt"]
        return asked
    if is_chat(given.get("messages")):
        messages: list[Message] = list(given["messages"])
        while messages and messages[-1].get("role") in _ASSISTANTS:
            messages.pop()
        if messages:
            return messages
    if isinstance(given.get("text"), str):
        return str(given["text"])
    raise DataError(
        f"Row {number} asks nothing: it has the columns {', '.join(row)}, and 'prompt', 'messages' or 'text' is "
        "expected."
    )


def end_of_answers(model: Any, tokenizer: Any) -> tuple[list[int], tuple[str, ...]]:
    """Return (tokens, texts) that end an answer: those that model and tokenizer name, and what the chat template writes
    after an assistant's turn."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    after = _after_turn(tokenizer)
    if not after:
        return sorted(ends), ()
    first = tokenizer(after, add_special_tokens=False)["input_ids"][0]
    if first in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}:
        return sorted(ends | {first}), ()
    return sorted(ends), (after.split()[0],)


def _after_turn(tokenizer: Any) -> str:
    """Return what a chat template writes after an assistant's turn; empty where there is none, or nothing."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    try:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _SENTINEL}]
        return chat.render(tokenizer, messages).partition(_SENTINEL)[2].strip()
    except DataError:
        return ""
