"""What a row of text data is: plain text, prompt and completion, messages, a preference, or tokens already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

from trainwright.data.sources.messages import message_of
from trainwright.errors import DataError, did_you_mean


class Format(Enum):
    """The kinds of rows, by their columns."""

    TOKENS = "tokens"
    PREFERENCE = "preference"
    COMPLETION = "prompt and completion"
    MESSAGES = "messages"
    TEXT = "text"
    PROMPT = "prompts"


_ELSEWHERE = {  # what other data call the columns of a prompt and its answer
    **dict.fromkeys(("question", "query", "problem", "instruction"), "prompt"),
    **dict.fromkeys(("answer", "response", "solution", "output"), "completion"),
}
_KNOWN = ("text", "prompt", "completion", "messages", "conversations", "chosen", "rejected", "input_ids")
LEARNED_FROM = (*_KNOWN, "labels", "completion_mask", "assistant_masks", "tools", "chat_template_kwargs")
"""Columns that decide what is learned of a row."""
READY_PAIRS = ("chosen_ids", "rejected_ids")
"""Columns of pairs that are tokens already."""
_CHAT_COLUMNS = ("prompt", "completion", "chosen", "rejected", "messages")
_ANSWERS = ("completion", "chosen", "rejected")
_NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios")


_EITHER = ("messages", "conversations")
_LEARNED = {
    Format.TOKENS: ("input_ids", "labels", "completion_mask", "assistant_masks"),
    Format.COMPLETION: ("prompt", "completion"),
    Format.MESSAGES: _EITHER,
    Format.PREFERENCE: ("chosen", "rejected"),
    Format.PROMPT: ("prompt",),
}
ALSO_READ = ("prompt", "tools", "chat_template_kwargs")
"""Columns that are read where they are, of rows that are learned from others."""
_MOST = 1 << 31


def format_of(columns: Sequence[str], text_column: str = "text") -> Format:
    """Return what rows with these columns are.

    Raises:
        DataError: nothing that can be learned from.
    """
    has = set(columns)
    if "input_ids" in has:
        return Format.TOKENS
    if {"chosen", "rejected"} <= has:
        return Format.PREFERENCE
    if {"prompt", "completion"} <= has:
        return Format.COMPLETION
    if has & {"messages", "conversations"}:
        return Format.MESSAGES
    if text_column in has:
        return Format.TEXT
    known = [*_KNOWN, text_column]
    called = [f"{name}: {_ELSEWHERE[name]}" for name in columns if name in _ELSEWHERE]
    called = ["translation.en: prompt", "translation.de: completion"] if "translation" in has else called
    near = (did_you_mean(name, known) for name in columns if name not in known)
    hints = f" Say what they are: column_map: {{{', '.join(called)}}}." if called else "".join(near)
    raise DataError(
        f"The data has the columns {', '.join(columns)}, which are none that can be learned from.{hints} Known: "
        f"'{text_column}' (another by data.train.target_col); 'prompt' and 'completion'; 'messages' or "
        "'conversations'; 'chosen' and 'rejected', with or without 'prompt'; 'input_ids'."
    )


def whole_numbers(values: Sequence[Any]) -> list[int]:
    """Return tokens or labels as whole numbers; 5.0 is 5, as tables with gaps have it.

    Raises:
        TypeError: one of them is none, or has more than 32 bits.
    """
    for value in values:
        if not isinstance(value, int) and not (isinstance(value, float) and value.is_integer()):
            raise TypeError(f"{value!r} is no whole number")
        if not -_MOST <= value < _MOST:
            raise TypeError(f"{value!r} is no token: it has more than 32 bits")
    return [int(value) for value in values]


def is_chat(value: Any) -> bool:
    """Whether a column holds messages and not a text."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def canonical(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a row in the form that OpenAI's messages have; ShareGPT's `from` and `value` become `role` and `content`.

    Args:
        row: as it was read.
        number: of the row, for messages.

    Raises:
        DataError: a message that cannot be (`message_of`), tools that are not JSON, images or sounds.
    """
    new = {name: value for name, value in row.items() if value is not None}
    seen = [name for name in _NOT_TEXT if name in new and not (isinstance(new[name], list | str) and not new[name])]
    if seen and "input_ids" not in new:
        raise DataError(
            f"Row {number} has '{seen[0]}', and only text can be learned from. Leave the row, or the column, out."
        )
    if "conversations" in new and "messages" not in new:
        new["messages"] = new.pop("conversations")
    if "messages" in new:
        new["messages"] = _listed(new["messages"], number)
    for name in _CHAT_COLUMNS:
        if name in _ANSWERS and isinstance(new.get(name), Mapping):
            new[name] = [new[name]]
        if is_chat(new.get(name)):
            new[name] = [message_of(one, name, number) for one in new[name]]
    if new.get("tools") == "":
        del new["tools"]  # an empty cell of a CSV file
    if isinstance(new.get("tools"), str):
        try:
            new["tools"] = json.loads(new["tools"]) or None
        except json.JSONDecodeError as error:
            raise DataError(f"Row {number}: 'tools' is a text, but not JSON: {error}.") from None
    return new


def _listed(given: Any, number: int) -> Any:
    """Return messages as a list, also where they are a JSON text, as in tables of texts.

    Raises:
        DataError: they are no list of messages.
    """
    found = given
    if isinstance(given, str) and given.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):
            found = json.loads(given)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise DataError(
            f"Row {number}: 'messages' holds {given!r:.60}; a list of messages with 'role' and 'content' (or 'from' "
            "and 'value') is expected."
        )
    return found


def learned_in(found: Format, text_column: str = "text") -> tuple[str, ...]:
    """Return the columns that rows of a format must have something in."""
    return (text_column,) if found is Format.TEXT else _LEARNED[found]


def check_row(row: Mapping[str, Any], number: int, found: Format, text_column: str = "text") -> None:
    """Raise a DataError where a column that is learned from is None, a number where a text is expected, or a
    conversation without a message."""
    for name in learned_in(found, text_column):
        value = row.get(name)
        if name in row and value is None and not (name in _EITHER and any(row.get(one) for one in _EITHER)):
            raise DataError(f"Row {number} has None in '{name}'. Drop the row or fill it in.")
        if found is Format.TOKENS:
            continue
        if isinstance(value, list) and not value:
            raise DataError(f"Row {number} has no message in '{name}'. Drop the row or fill it in.")
        if isinstance(value, int | float):
            raise DataError(f"Row {number} has {value!r} in '{name}', where a text is expected. Make it one.")


def check_wanted(row: Mapping[str, Any], number: int | None = None) -> None:
    """Raise a DataError for an answer that is judged bad, as KTO's rows are, where all answers are learned."""
    if row.get("label") is False:
        where = "" if number is None else f"Row {number}: "
        raise DataError(
            f"{where}label is false: the completion is one that is not wanted (KTO's rows), and it would be learned. "
            "Leave such rows out, or train with KTO."
        )


def of_one_kind(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose prompt and answers mix texts and messages with messages alone: a prompt that is a text is what
    the user says, an answer that is one is what the assistant says. A row of one kind stays as it is."""
    names = [name for name in ("prompt", "completion", "chosen", "rejected") if name in row]
    if len({is_chat(row[name]) for name in names}) < 2:
        return dict(row)
    answers = [row[name] for name in names if name != "prompt" and is_chat(row[name])]
    if answers and all(answer[0].get("role") not in ("assistant", "tool") for answer in answers):
        names.remove("prompt")  # the answers begin with it
    said = {
        name: [{"role": "user" if name == "prompt" else "assistant", "content": row[name]}]
        for name in names
        if isinstance(row[name], str)
    }
    return {**row, **said}


def with_prompt(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preference with its prompt: what chosen and rejected begin with alike, where none is given apart.

    A space before the first difference belongs to the answers, as TRL has it.

    Raises:
        DataError: there is no prompt.
    """
    row = of_one_kind(row)
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row and is_chat(row["prompt"]) == is_chat(chosen):
        return dict(row)
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    shared = max(0, min(shared, len(chosen) - 1, len(rejected) - 1))
    if is_chat(chosen) and not shared:
        raise DataError("There is no prompt: 'chosen' and 'rejected' begin with no message alike. Give 'prompt'.")
    if shared and chosen[shared - 1] == " ":
        shared -= 1
    return {**row, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
