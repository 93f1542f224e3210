"""Rows of text become rows of tokens and labels, by the rules of TRL 1.16 (docs/formats.md).

Plain text and completions end with the end-of-sequence token; conversations are what their template makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from trainwright.batch import IGNORED
from trainwright.data.sources.formats import (
    Format,
    canonical,
    check_row,
    check_wanted,
    is_chat,
    of_one_kind,
    whole_numbers,
    with_prompt,
)
from trainwright.data.sources.messages import is_muted
from trainwright.data.text import chat, turns
from trainwright.data.text.encode import Asked, Steps, marks_of, together
from trainwright.data.token_rows import BEFORE, ROW_COLUMNS
from trainwright.errors import ConfigError, DataError


@dataclass(frozen=True)
class TextRules:
    """How rows of one format are tokenised. Rows with other columns of tokens are a subclass of this.

    Attributes:
        COLUMNS: the columns of whole numbers that a row becomes; tokens stand in those whose names end with `_ids`.
        LEARNED: those of them that must hold something to learn: `labels`, or columns of tokens.
        BEFORE: those of them that `max_length` cuts, and for each the column that stands before it, if any.
        FLOATS: those of them that hold other numbers than whole ones.
        WHOLE: whether a row that `max_length` would cut is left out.
        tokenizer: of transformers.
        format: what the rows are.
        max_length: tokens of the longest row, or None.
        text_column: the column of plain text.
        completion_only: learn completions, not prompts.
        assistant_only: learn the assistant's turns.
        final_turn_only: of these the last.
        template_settings: further variables of the chat template.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ROW_COLUMNS
    LEARNED: ClassVar[tuple[str, ...]] = ("labels",)
    BEFORE: ClassVar[Mapping[str, str | None]] = BEFORE
    FLOATS: ClassVar[tuple[str, ...]] = ()
    WHOLE: ClassVar[bool] = False

    tokenizer: Any
    format: Format
    _: KW_ONLY
    max_length: int | None = None
    text_column: str = "text"
    completion_only: bool = True
    assistant_only: bool = False
    final_turn_only: bool = False
    template_settings: Mapping[str, Any] | None = None

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "row" in vars(cls) or "rows" in vars(cls):
            raise ConfigError(
                f"{cls.__name__}.row would not be called: rows are tokenised together. Write encode(row)."
            )

    def __call__(self, batch: Mapping[str, list[Any]], indices: Sequence[int]) -> dict[str, list[Any]]:
        """Return columns of tokens for columns of text, as `datasets.Dataset.map` wants them."""
        found = self.rows([{name: batch[name][i] for name in batch} for i in range(len(indices))], indices)
        return {name: [one[name] for one in found] for name in self.COLUMNS}

    @property
    def part(self) -> str:
        """Which tokens are learned, in words."""
        if self.format is Format.TOKENS:
            return "as the rows' own labels or masks say"
        answers = "the last answer" if self.final_turn_only else "the assistant's answers"
        if self.format is Format.MESSAGES:
            return answers if self.assistant_only or self.final_turn_only else "the whole chat"
        if self.format is Format.TEXT:
            return "the whole text"
        where = "the completion" if self.completion_only else "prompt and completion"
        return f"{answers} in {where}" if self.assistant_only or self.final_turn_only else where

    def of_table(self, table: Any, found: Format) -> TextRules:
        """Return the rules of one of a run's tables, whose rows are what was found."""
        return replace(self, format=found)

    def row(self, given: Mapping[str, Any], number: int) -> dict[str, list[int]]:
        """Return a row as tokens, cut to `max_length`.

        Raises:
            DataError: it cannot be tokenised, with its number.
        """
        return self.rows([given], [number])[0]

    def rows(self, given: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> list[dict[str, list[int]]]:
        """Return rows as tokens, cut to `max_length`; what they need of the tokenizer they ask for together.

        Raises:
            DataError: one of them cannot be tokenised, with its number.
        """
        steps = [self._row(row, number) for row, number in zip(given, numbers, strict=True)]
        return [self._cut(row) for row in together(steps, self.tokenizer)]

    def _cut(self, row: dict[str, list[int]]) -> dict[str, list[int]]:
        if self.max_length is None:
            return row
        ends = {name: self.max_length - len(row[one] if one else ()) for name, one in self.BEFORE.items()}
        return {name: column[: max(0, ends[name])] if name in ends else column for name, column in row.items()}

    def _row(self, given: Mapping[str, Any], number: int) -> Steps[dict[str, list[int]]]:
        row = canonical(given, number)
        check_row(given, number, self.format, self.text_column)
        try:
            return (yield from self.encode(row))
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
        except ConfigError:  # of every row
            raise
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise DataError(
                f"Row {number} is not {self.format.value}: {type(error).__name__} {error}. It has "
                f"{', '.join(f'{name} ({type(value).__name__})' for name, value in row.items())}."
            ) from error

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return a row, in the form that `canonical` gives it, as tokens, uncut.

        It is a generator (`data/text/encode.py`): what it needs of the tokenizer comes by `yield from`, as that of
        `super().encode(row)` does.

        Raises:
            DataError: it cannot be tokenised.
        """
        ids, labels = yield from self.tokens(row)
        if len(ids) != len(labels):
            raise DataError(f"{len(ids)} input_ids but {len(labels)} labels; they must be as many.")
        return {"input_ids": ids, "labels": labels}

    def tokens(self, row: dict[str, Any]) -> Steps[tuple[list[int], list[int]]]:
        """Return the tokens of a row and its labels, uncut."""
        if self.format is Format.TOKENS:
            return whole_numbers(row["input_ids"]), _given_labels(row, self.completion_only)
        if self.format is Format.TEXT:
            ids = yield from self._encode(self._ended(row[self.text_column]))
            return ids, ids
        if type(self) is TextRules:  # rules of one's own may know what to make of it
            check_wanted(row)
        if self.format is Format.COMPLETION:
            return (yield from self._completion(of_one_kind(row)))
        ids, wrote = yield from self._conversation(row["messages"], row)
        return ids, [token if mine else IGNORED for token, mine in zip(ids, wrote, strict=True)]

    def _completion(self, row: dict[str, Any]) -> Steps[tuple[list[int], list[int]]]:
        prompt, completion = row["prompt"], row["completion"]
        wrote: Sequence[Any]
        if is_chat(prompt):
            before = yield from self._rendered_prompt(prompt, row)
            ids, wrote = yield from self._conversation([*prompt, *completion], row)
        else:
            before = yield from self._encode(prompt)
            ids = yield from self._encode(prompt + self._ended(completion))
            wrote = [True] * len(ids)
        start = shared_length(before, ids) if self.completion_only else 0
        return ids, [token if place >= start and wrote[place] else IGNORED for place, token in enumerate(ids)]

    def _ended(self, text: str) -> str:
        end = self.tokenizer.eos_token
        return text if end is None or text.endswith(end) else text + end

    def _encode(self, text: str, target: bool = False) -> Steps[list[int]]:
        """Return the tokens of a text, or one that is written; marks that the tokenizer sets around it, and that it has
        already, once."""
        ids: list[int] = (yield Asked(text, plain=True, target=target))["input_ids"]
        before, after = self.target_marks if target else self.marks
        if before and ids[: 2 * len(before)] == before * 2:
            ids = ids[len(before) :]
        if after and ids[-2 * len(after) :] == after * 2:
            ids = ids[: -len(after)]
        return ids

    @cached_property
    def marks(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer sets before and after a text by itself."""
        return marks_of(self.tokenizer)

    @cached_property
    def target_marks(self) -> tuple[list[int], list[int]]:
        """Those that it sets before and after a text that an encoder-decoder writes."""
        return marks_of(self.tokenizer, target=True)

    def settings_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of the chat template for a row: its tools, and what is set."""
        own = row.get("chat_template_kwargs") or {}
        return {"tools": row.get("tools"), **(self.template_settings or {}), **own}

    def _rendered_prompt(self, messages: Sequence[Any], row: Mapping[str, Any]) -> Steps[list[int]]:
        text = chat.render(self.tokenizer, messages, prompt=True, **self.settings_of(row))
        ids: list[int] = (yield Asked(text))["input_ids"]
        return ids

    def _conversation(self, messages: Sequence[Any], row: Mapping[str, Any]) -> Steps[tuple[list[int], Sequence[Any]]]:
        """Return the tokens of a conversation, and for each whether it is learned."""
        settings = self.settings_of(row)
        muted = [number for number, message in enumerate(messages) if is_muted(message)]
        wrote = self._written(messages, settings)
        if wrote is not None and not muted:
            return wrote
        text = chat.render(self.tokenizer, messages, **settings)
        if not (self.assistant_only or self.final_turn_only or muted):
            ids = (yield Asked(text))["input_ids"]
            return ids, [True] * len(ids)
        if not self.tokenizer.is_fast:
            raise DataError(
                "assistant_only_loss, weight and train need a fast tokenizer, which tells where in the text a token "
                "stands."
            )
        made = yield Asked(text, offsets=True)
        mine: Sequence[Any] = [True] * len(made["input_ids"])
        if wrote is not None:
            mine = wrote[1]
        elif self.assistant_only or self.final_turn_only:
            wanted = turns.assistant_turns(messages, self.final_turn_only)
            mine = _within(made, turns.spans_of(self.tokenizer, messages, text, wanted, **settings))
        others = _within(made, turns.spans_of(self.tokenizer, messages, text, muted, **settings))
        return made["input_ids"], [learned and not other for learned, other in zip(mine, others, strict=True)]

    def _written(self, messages: Sequence[Any], settings: Mapping[str, Any]) -> tuple[list[int], Sequence[Any]] | None:
        """Return the tokens of a conversation and what of them the template marks as the assistant's, where that is
        wanted."""
        if not self.assistant_only or self.final_turn_only or not chat.has_marks(self.tokenizer):
            return None
        made = self.tokenizer.apply_chat_template(
            chat.as_read(self.tokenizer, messages, settings.get("tools")),
            return_dict=True,
            return_assistant_tokens_mask=True,
            **settings,
        )
        return made["input_ids"], made["assistant_masks"]


@dataclass(frozen=True)
class PairRules(TextRules):
    """How pairs of answers are tokenised."""

    COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
    LEARNED = ("chosen_ids", "rejected_ids")
    BEFORE: ClassVar[Mapping[str, str | None]] = {
        "prompt_ids": None, "chosen_ids": "prompt_ids", "rejected_ids": "prompt_ids",
    }  # fmt: skip

    @property
    def part(self) -> str:
        """Which tokens are learned, in words."""
        return "the two answers, compared"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return a pair as the tokens of its prompt and of its two answers."""
        row = with_prompt(row)
        prompt = row["prompt"]
        if is_chat(row["chosen"]):
            before = yield from self._rendered_prompt(prompt, row)
            chosen, _ = yield from self._conversation([*prompt, *row["chosen"]], row)
            rejected, _ = yield from self._conversation([*prompt, *row["rejected"]], row)
        else:
            before = yield from self._encode(prompt)
            chosen = yield from self._encode(prompt + self._ended(row["chosen"]))
            rejected = yield from self._encode(prompt + self._ended(row["rejected"]))
        start = min(shared_length(before, ids) for ids in (chosen, rejected))
        return {"prompt_ids": before[:start], "chosen_ids": chosen[start:], "rejected_ids": rejected[start:]}


def _within(made: Any, spans: Sequence[turns.Span]) -> list[bool]:
    """Return for each token whether it begins within one of some parts of the text."""
    places = np.array([first for first, _ in made["offset_mapping"]], dtype=np.int64)
    starts, ends = (np.sort(np.array([span[side] for span in spans], dtype=np.int64)) for side in (0, 1))
    begun, ended = (np.searchsorted(sides, places, side="right") for sides in (starts, ends))
    within: list[bool] = (begun > ended).tolist()
    return within


def _given_labels(row: Mapping[str, Any], completion_only: bool) -> list[int]:
    """Return the labels of a row of tokens: its own, or the tokens where its masks are 1."""
    if "labels" in row:
        return whole_numbers(row["labels"])
    masks = [row["assistant_masks"]] if "assistant_masks" in row else []
    if completion_only and "completion_mask" in row:
        masks.append(row["completion_mask"])
    if not masks:
        return whole_numbers(row["input_ids"])
    bits = zip(*masks, strict=True)
    return [token if all(bit) else IGNORED for token, bit in zip(row["input_ids"], bits, strict=True)]


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens that two rows begin with alike."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
