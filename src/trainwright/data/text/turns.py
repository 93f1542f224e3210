"""Which parts of a rendered conversation are which turns, for any chat template.

A template without `{% generation %}` marks is asked what it makes of the conversation up to a turn. For a long one that
would be asked once for every turn, of ever more text; so one rendering with marks around all contents tells what stands
between them, and of the turns that stand between the same texts the first and the last alone are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainwright.data.text.chat import Message, render
from trainwright.errors import DataError

Span = tuple[int, int]

_FEW = 3  # turns that are asked for one by one
_SENTINEL = "\u2402trainwright\u2403"
_MARK = re.compile("\u2402([0-9]+)([az])\u2403")
_PIECES = re.compile(r"<[^<>\s]+>|\s+|[^<\s]+|<")


def assistant_turns(messages: Sequence[Message], final_only: bool = False) -> list[int]:
    """Return the numbers of the messages that the assistant wrote, or with `final_only` of the last one."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return turns[-1:] if final_only else turns


def spans_of(
    tokenizer: Any, messages: Sequence[Message], text: str, turns: Sequence[int], **settings: Any
) -> list[Span]:
    """Return the parts of a rendered conversation that are some of its turns: each without its header, with its end.

    Args:
        tokenizer: with a chat template.
        messages: the conversation.
        text: the whole of it, rendered.
        turns: numbers of messages; the header of one that the assistant did not write counts as its own.
        settings: further variables of the template, tools.

    Returns:
        (start, end) in characters.

    Raises:
        DataError: a turn cannot be found in the text.
    """
    found: dict[int, Span] = {}
    contents = _contents(tokenizer, messages, text, settings) if len(turns) > _FEW else {}
    for alike in _alike(messages, text, turns, contents):
        found |= _moved(contents, alike, [_span(tokenizer, messages, alike[at], text, settings) for at in (0, -1)])
    return [found.get(number) or _span(tokenizer, messages, number, text, settings) for number in turns]


def _contents(tokenizer: Any, messages: Sequence[Message], text: str, settings: Mapping[str, Any]) -> dict[int, Span]:
    """Return where the contents of messages stand in a rendered conversation, without the spaces around them.

    They are told by marks in one more rendering, which but for them has to be the same text. A message whose content is
    empty, or not found as it is, is left out; all are, where the template changes with the marks.
    """
    marked = [{**one, "content": _marked(one.get("content"), number)} for number, one in enumerate(messages)]
    try:
        pieces = _MARK.split(render(tokenizer, marked, **settings))
    except (DataError, TypeError, ValueError):  # it reads what the contents say
        return {}
    marks = [(int(number), side) for number, side in zip(pieces[1::3], pieces[2::3], strict=True)]
    if "\u2402" in text or "".join(pieces[::3]) != text or marks != sorted(set(marks)):
        return {}
    places, place = {}, 0
    for piece, mark in zip(pieces[::3], marks, strict=False):
        place += len(piece)
        places[mark] = place
    spans = {n: (places[n, "a"], places[n, "z"]) for n, side in marks if side == "z" and (n, "a") in places}
    return {n: (start, end) for n, (start, end) in spans.items() if text[start:end] == messages[n]["content"].strip()}


def _marked(content: Any, number: int) -> Any:
    """Return a text with marks around it, within the spaces that a template may strip."""
    if not isinstance(content, str) or not (core := content.strip()):
        return content
    before, after = content.split(core, 1) if content != core else ("", "")
    return f"{before}\u2402{number}a\u2403{core}\u2402{number}z\u2403{after}"


def _alike(
    messages: Sequence[Message], text: str, turns: Sequence[int], contents: Mapping[int, Span]
) -> list[list[int]]:
    """Return turns of the same roles and keys that stand between the same texts, in groups of more than two."""
    groups: dict[Any, list[int]] = {}
    for number in turns:
        before, own, after = (_around(contents, place, messages, text) for place in (number - 1, number, number + 1))
        if before and own and after:
            near = messages[max(0, number - 1) : number + 2]
            kind = (number == 0, *(one["role"] for one in near), *sorted(messages[number]))
            groups.setdefault((kind, text[before[1] : own[0]], text[own[1] : after[0]]), []).append(number)
    return [group for group in groups.values() if len(group) > 2]


def _around(contents: Mapping[int, Span], number: int, messages: Sequence[Message], text: str) -> Span | None:
    """Return where a content stands, known or not; before the first message the text begins, after the last it ends."""
    if number < 0:
        return (0, 0)
    return (len(text), len(text)) if number >= len(messages) else contents.get(number)


def _moved(contents: Mapping[int, Span], alike: Sequence[int], known: Sequence[Span]) -> dict[int, Span]:
    """Return the spans of turns that stand between the same texts, from those of the first and the last; none where
    these two lie differently around their contents, or not between their neighbours'."""
    first, last = (
        (span[0] - contents[number][0], span[1] - contents[number][1])
        for number, span in zip((alike[0], alike[-1]), known, strict=True)
    )
    if first != last or first[0] > 0 or first[1] < 0:
        return {}
    before, after = contents.get(alike[-1] - 1, (0, 0)), contents.get(alike[0] + 1)
    if known[1][0] < before[1] or (after and known[0][1] > after[0]):
        return {}
    return {number: (contents[number][0] + first[0], contents[number][1] + first[1]) for number in alike}


def _span(tokenizer: Any, messages: Sequence[Message], number: int, text: str, settings: Mapping[str, Any]) -> Span:
    """Return the part of a rendered conversation that is a turn, by what the template makes of the messages up to it.

    Where that is no beginning of the whole (templates that strip earlier thoughts), the turn is found by its content.
    """
    mine = messages[number]["role"] == "assistant"
    before = render(tokenizer, messages[:number], prompt=mine, **settings) if number else ""
    until = render(tokenizer, messages[: number + 1], **settings)
    if number and text.startswith(until) and until.startswith(before):
        return len(before), len(until)
    return _span_of_content(tokenizer, messages, number, text, settings)


def _span_of_content(
    tokenizer: Any, messages: Sequence[Message], number: int, text: str, settings: Mapping[str, Any]
) -> Span:
    """Return where a turn's content stands, and the end-of-turn text after it."""
    marked = [dict(message) for message in messages]
    marked[number]["content"] = _SENTINEL
    head, found, tail = render(tokenizer, marked, **settings).partition(_SENTINEL)
    _, _, end = render(tokenizer, marked[: number + 1], **settings).partition(_SENTINEL)
    if not found or not (text.startswith(head) and text.endswith(tail)):
        raise DataError(
            "The chat template renders an assistant's turn in a way that cannot be found again, so assistant_only_loss "
            "does not know what to learn. Mark it in the template with {% generation %} and {% endgeneration %}."
        )
    return len(head), len(text) - len(tail) + len(_ending(end, tail))


def _ending(end: str, tail: str) -> str:
    """Return how a turn ends: as many special tokens and spaces of its end as follow it in the whole conversation;
    where that is none (some templates end the last turn in their own way), the special token that follows."""
    ending = ""
    for piece in _PIECES.findall(end):
        if not tail.startswith(ending + piece):
            break
        ending += piece
    first = _PIECES.match(tail)
    return ending or (first[0] if first and first[0].startswith("<") else "")
