"""What a conversation holds and its chat template does not write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainwright.data.text.chat import Message, render

_THOUGHT_OF = ("reasoning_content", "reasoning", "thinking")
_THOUGHTS = "</think>"  # what comes before it is left out of earlier turns


def unwritten(tokenizer: Any, messages: Sequence[Message], **settings: Any) -> Iterator[str]:
    """Yield, in words, what of a conversation is not in the text that the tokenizer's template makes of it.

    Args:
        tokenizer: with a chat template.
        messages: the conversation.
        settings: further variables of the template, tools.
    """
    text = render(tokenizer, messages, **settings)
    for name in _THOUGHT_OF:  # of the last answer: templates leave out those before it
        if str(messages[-1].get(name) or "").strip() not in text:
            yield f"'{name}' of an answer"
    for message in messages:
        said = str(message.get("content") or "").rpartition(_THOUGHTS)[2].strip()
        if said and said not in text:
            yield f"what a message of role {message['role']} says"
        for call in message.get("tool_calls") or ():
            if _name(call) not in text:
                yield "calls of tools"
    if any(_name(tool) not in text for tool in settings.get("tools") or ()):
        yield "tools"


def _name(tool: Any) -> str:
    """Return what a tool, or the call of one, is called."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
    return str(function.get("name", "")) if isinstance(function, Mapping) else str(getattr(function, "__name__", ""))
