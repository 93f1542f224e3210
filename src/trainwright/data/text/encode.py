"""Texts of many rows become tokens together, so that a tokenizer's own threads share the work.

What a row needs encoded may depend on what it has seen, so a row is a generator: it yields what it asks for, and is
sent the tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_CHARACTERS = 1 << 20  # of one call of a tokenizer, whose result is some hundred times that of the tokens in memory


@dataclass(frozen=True)
class Asked:
    """A text that a row needs as tokens.

    Attributes:
        text: what is encoded.
        plain: whether the tokenizer sets its marks around it.
        offsets: whether it is asked where in the text each token stands.
        target: whether it is one that an encoder-decoder writes: tokenizers of translation have a vocabulary, or marks
            of a language, for these.
    """

    text: str
    plain: bool = False
    offsets: bool = False
    target: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"{str(self.text)[:40]!r} is no text")


Result = TypeVar("Result")
Steps = Generator[Asked, Mapping[str, Any], Result]
"""What a row does: yields texts, is sent their tokens (`input_ids`, where asked `offset_mapping`), returns a result."""


def together(rows: Sequence[Steps[Result]], tokenizer: Any) -> list[Result]:
    """Return what rows return; what they ask for at a time is encoded by one call.

    Raises:
        Exception: what a row raises, or the tokenizer on one of its texts, within that row.
    """
    results: dict[int, Result] = {}
    waiting: list[tuple[int, Asked]] = []

    def go_on(number: int, answer: Any) -> None:
        row = rows[number]
        try:
            waiting.append((number, row.throw(answer) if isinstance(answer, Exception) else row.send(answer)))
        except StopIteration as done:
            results[number] = done.value

    for number in range(len(rows)):
        go_on(number, None)
    while waiting:
        now, waiting[:] = list(waiting), []
        for (number, _), answer in zip(now, _encode([asked for _, asked in now], tokenizer), strict=True):
            go_on(number, answer)
    return [results[number] for number in range(len(rows))]


def _encode(asked: Sequence[Asked], tokenizer: Any) -> list[Mapping[str, Any] | Exception]:
    """Return the tokens of texts, or what the tokenizer raises on one of them."""
    answers: dict[int, Mapping[str, Any] | Exception] = {}
    for kind in dict.fromkeys((one.plain, one.offsets, one.target) for one in asked):
        numbers = [number for number, one in enumerate(asked) if (one.plain, one.offsets, one.target) == kind]
        for some in _portions(numbers, asked):
            answers |= zip(some, _called(tokenizer, [asked[number].text for number in some], *kind), strict=True)
    return [answers[number] for number in range(len(asked))]


def _portions(numbers: Sequence[int], asked: Sequence[Asked]) -> list[list[int]]:
    """Return the numbers of texts in portions that are not too long for one call."""
    portions: list[list[int]] = []
    length = _CHARACTERS
    for number in numbers:
        if length >= _CHARACTERS:
            portions.append([])
            length = 0
        portions[-1].append(number)
        length += len(asked[number].text)
    return portions


def _called(
    tokenizer: Any, texts: list[str], plain: bool, offsets: bool, target: bool
) -> list[Mapping[str, Any] | Exception]:
    settings = {"add_special_tokens": plain, "return_attention_mask": False, "return_token_type_ids": False}
    settings |= {"return_offsets_mapping": True} if offsets else {}
    try:
        made = tokenizer(**{"text_target" if target else "text": texts}, **settings)
    except Exception as error:
        if len(texts) == 1:
            return [error]
        return [one for text in texts for one in _called(tokenizer, [text], plain, offsets, target)]
    return [{name: made[name][number] for name in made} for number in range(len(texts))]


def marks_of(tokenizer: Any, target: bool = False) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer sets before and after a text by itself; `target`: one that is written."""
    text = {"text_target" if target else "text": "a"}
    whole, bare = (tokenizer(**text, add_special_tokens=with_marks)["input_ids"] for with_marks in (True, False))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
