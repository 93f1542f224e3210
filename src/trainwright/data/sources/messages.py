"""One message of a conversation, in the form that chat templates take, whichever form it was written in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainwright.errors import DataError

_ROLES = {
    "human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
_PLAIN = ("system", "developer", "user", "assistant", "tool", "function")
_CALLS = "function_call"  # ShareGPT's role of an assistant that calls
_TEXTS = ("text", "input_text", "output_text")


def message_of(given: Mapping[str, Any], column: str, number: int) -> dict[str, Any]:
    """Return a message as OpenAI's have it: ShareGPT's `from` and `value` become `role` and `content`, parts of text
    one text, an older `function_call` one of `tool_calls`, and arguments that are JSON texts what they say.

    Args:
        given: as it was read.
        column: that it stands in, for messages.
        number: of the row, for messages.

    Raises:
        DataError: no role or content, content that is no text, a weight that is neither 0 nor 1, arguments that are no
            JSON object.
    """
    message = {name: value for name, value in given.items() if value is not None}
    if "from" in message:
        message["role"] = message.pop("from")
        message["role"] = _ROLES.get(message["role"], message["role"])
    if "value" in message:
        message["content"] = message.pop("value")
    message = _with_role(message)
    if "function_call" in message and "tool_calls" not in message:
        message["tool_calls"] = [{"type": "function", "function": message.pop("function_call")}]
    if "role" not in message or not ("content" in message or "tool_calls" in message):
        raise DataError(
            f"Row {number}: a message in '{column}' has the keys {', '.join(given)}; it needs 'role' and 'content' "
            "(or 'from' and 'value')."
        )
    message["content"] = _text_of(message.get("content", ""), f"Row {number}: a message in '{column}'")
    if message.get("weight", 1) not in (0, 1) or message.get("train", True) not in (True, False):
        raise DataError(
            f"Row {number}: a message in '{column}' has weight {message.get('weight')!r} and train "
            f"{message.get('train')!r}; a turn is learned (weight 1, train true) or it is not (weight 0, train false)."
        )
    if message.get("tool_calls"):
        message["tool_calls"] = [_call(one, f"Row {number}") for one in message["tool_calls"]]
    return message


def _with_role(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with the role that templates know: in small letters, of ShareGPT's calls the assistant's."""
    role = message.get("role")
    if isinstance(role, str) and role.lower() in _PLAIN:
        return {**message, "role": role.lower()}
    if role == "observation":
        return {**message, "role": "tool"}
    if role != _CALLS:
        return message
    try:
        found = json.loads(message.get("content", ""))
    except (TypeError, json.JSONDecodeError):  # it is said in another language
        return {**message, "role": "assistant"}
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) and "name" in one for one in calls):
        return {**message, "role": "assistant"}
    made = [{"type": "function", "function": one} for one in calls]
    return {**message, "role": "assistant", "content": "", "tool_calls": made}


def is_muted(message: Mapping[str, Any]) -> bool:
    """Whether a message says of itself that it is not learned: OpenAI's and Mistral's `weight: 0`, `train: false`."""
    return not message.get("weight", 1) or not message.get("train", True)


def _text_of(content: Any, where: str) -> str:
    """Return the text of a message's content, its parts joined without anything between them, as templates do."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise DataError(f"{where} has content that is {type(content).__name__}; a text, or parts of it, is expected.")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) else part
        if (isinstance(part, Mapping) and kind not in _TEXTS) or not isinstance(text, str):
            raise DataError(f"{where} has a part of type '{kind}'; only text can be learned from. Leave the row out.")
        texts.append(text)
    return "".join(texts)


def _call(given: Any, where: str) -> Any:
    """Return a tool call whose arguments are a mapping, and not the JSON text that OpenAI writes."""
    if not isinstance(given, Mapping):
        return given
    call = {name: value for name, value in given.items() if value is not None}
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _call(call["function"], where)}
    if isinstance(call.get("arguments"), str):
        call["arguments"] = _arguments(call["arguments"], call.get("name"), where)
    return call


def _arguments(text: str, name: Any, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: the arguments of the call of '{name}' are a text, but not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: the arguments of the call of '{name}' are {text!r}; a JSON object is expected.")
    return found
