"""Rows that have a class, or whose words have one each, as tokens and numbers of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch

from trainwright.batch import IGNORED
from trainwright.data.sources.formats import Format
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import padded
from trainwright.data.text.tokenize import TextRules
from trainwright.errors import DataError, did_you_mean

CLASS = ("label", "labels")
WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "pos_tags", "labels")
_GAPS = 100  # numbers without a row, beside ten times those that have some


def column_of(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first of some names that is a column."""
    return next((name for name in known if name in columns), None)


def own_names(table: Any, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names that `datasets` knows of the numbers in a table's column of classes; empty for none."""
    column = column_of(table.column_names or (), known)
    feature = (table.features or {}).get(column)
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def names_in(tables: Sequence[Any], known: Sequence[str]) -> list[str]:
    """Return the names of the classes of some tables: those that `datasets` knows of their columns, then all other
    values, numbers in their order and texts in the alphabet's.

    Raises:
        DataError: there are none, or they are neither texts nor whole numbers from 0 on.
    """
    named = list(dict.fromkeys(name for table in tables for name in own_names(table, known)))
    found: set[Any] = set()
    for table in tables:
        column = column_of(table.column_names, known)
        if column is not None and not own_names(table, known):
            for value in table[column]:
                found.update(_one(each) for each in (value if column in TAGS and isinstance(value, list) else [value]))
    found -= {None, "", IGNORED}
    texts = {one for one in found if isinstance(one, str)}
    numbers = found - texts
    if not found and not named:
        raise DataError(f"no row has a class in '{column_of(tables[0].column_names, known)}'.")
    if numbers and (texts or named):
        raise DataError(
            f"the classes are texts and numbers: {next(iter(texts), None) or named[0]!r}, {min(numbers)}. Make them "
            "one kind."
        )
    if numbers and max(numbers) >= _GAPS + 10 * len(numbers):
        raise DataError(
            f"the classes go up to {max(numbers)}, but there are {len(numbers)} of them. Number them from 0 on, or "
            "make them texts."
        )
    counted = [str(number) for number in range(max(numbers) + 1)] if numbers else []
    as_numbers = all(one.isdecimal() for one in texts)
    return [*named, *sorted(texts - set(named), key=int if as_numbers else str), *counted]


def _one(given: Any) -> Any:
    """Return a class as it was given, a text, a number from 0 on, -100 or nothing; 1.0 is 1, and true too.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if given is None or isinstance(given, str) or (isinstance(given, int) and (given >= 0 or given == IGNORED)):
        return int(given) if isinstance(given, bool) else given
    if given == -1:
        raise DataError("-1 is no class, as rows that nobody has classed have it. Leave them out.")
    if isinstance(given, float):
        raise DataError(f"{given} is no class: a text or a whole number from 0 on is expected.")
    raise DataError(f"a class is a text or a whole number from 0 on, and not {given!r:.60}.")


@dataclass(frozen=True)
class ClassRules(TextRules):
    """A text and its class.

    Attributes:
        names: of the classes, in their order.
        own: the names that the numbers of this table have, where these are its own.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("input_ids", "classes")
    LEARNED: ClassVar[tuple[str, ...]] = ("classes",)
    BEFORE: ClassVar[Mapping[str, str | None]] = {"input_ids": None}

    _: KW_ONLY
    names: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    CLASSES: ClassVar[tuple[str, ...]] = CLASS

    def of_table(self, table: Any, found: Format) -> ClassRules:
        """Return the rules of one table: its numbers are what it says that they are, unless none of these names is
        among the classes, which then name its numbers anew."""
        own = own_names(table, self.CLASSES)
        return replace(self, format=found, own=own if set(own) & set(self.names) else ())

    @property
    def part(self) -> str:
        """What is learned, in words."""
        return "a class of each row"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of the text, with the tokenizer's own marks, and the number of its class."""
        ids = yield from self._encode(row[self.text_column])
        name = column_of(list(row), CLASS) or CLASS[0]
        number = self.number(row.get(name), name)
        return {"input_ids": ids, "classes": [number] if ids else []}  # an empty text has nothing to be classed by

    def number(self, given: Any, column: str) -> int:
        """Return the number of a class that is given by its name or number.

        Raises:
            DataError: there is no such class, or none at all.
        """
        given = _one(given)
        if given is None or given == "":
            raise DataError(f"there is no class in '{column}'. Drop the row or fill it in")
        if self.own and isinstance(given, int) and given < len(self.own):
            given = self.own[given]
        if isinstance(given, str) and given in self.names:
            return self.names.index(given)
        if isinstance(given, str) and given.isdecimal() and not any(name.isdecimal() for name in self.names):
            given = int(given)  # tables of texts have their numbers as texts
        if isinstance(given, int) and given < len(self.names) and not self.own:
            return given
        near = did_you_mean(given, self.names) if isinstance(given, str) else ""
        raise DataError(
            f"there is no class {given!r} among {', '.join(self.names)}.{near} All of them are named by "
            "training.trainer_kwargs.class_names"
        )


@dataclass(frozen=True)
class WordRules(ClassRules):
    """Words and a class of each: the class is that of a word's first token, as in transformers' own examples."""

    BEFORE: ClassVar[Mapping[str, str | None]] = {"input_ids": None, "classes": None}
    CLASSES: ClassVar[tuple[str, ...]] = TAGS

    @property
    def part(self) -> str:
        """What is learned, in words."""
        return "a class of each word"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of the words, and for each the number of a class or -100.

        Raises:
            DataError: there are not as many classes as words.
        """
        yield from ()
        names = list(row)
        column = column_of(names, TAGS) or TAGS[0]
        words, tags = row[column_of(names, WORDS) or WORDS[0]], row[column]
        if isinstance(words, str) or isinstance(tags, str):
            raise DataError(f"words and '{column}' are lists, and not texts")
        if len(words) != len(tags):
            raise DataError(f"there are {len(words)} words, but {len(tags)} classes")
        if not self.tokenizer.is_fast:
            raise DataError("classes of words need a fast tokenizer, which tells the word of a token")
        try:
            made = self.tokenizer(list(words), is_split_into_words=True)
        except AssertionError:  # RoBERTa's, which would write the words without spaces
            raise DataError(
                "this tokenizer takes words with model.tokenizer_kwargs: {add_prefix_space: true} alone"
            ) from None
        places = made.word_ids()
        classes = [
            IGNORED if place is None or (number and places[number - 1] == place) or tags[place] == IGNORED
            else self.number(tags[place], column)
            for number, place in enumerate(places)
        ]  # fmt: skip
        return {"input_ids": list(made["input_ids"]), "classes": classes}


@dataclass(frozen=True)
class ClassBatch:
    """Rows padded to the longest: input_ids and attention_mask of shape (rows, tokens), labels of shape (rows,), or of
    words (rows, tokens).

    Attributes:
        pad_token_id: what rows are filled up with.
        multiple: that their width is rounded up to.
        by_word: whether words have a class each.
        limit: tokens of the longest row; one that was cut there ends with `end` again.
        end: the marks that the tokenizer sets after a text.
    """

    pad_token_id: int
    multiple: int | None = None
    by_word: bool = False
    limit: int | None = None
    end: tuple[int, ...] = ()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        ids, classes = [row["input_ids"] for row in rows], [row["classes"] for row in rows]
        if self.end and self.limit is not None:
            cut = [len(one) == self.limit for one in ids]
            ids = [self._ended(one, self.end) if over else one for one, over in zip(ids, cut, strict=True)]
            if self.by_word:
                none = [IGNORED] * len(self.end)
                classes = [self._ended(one, none) if over else one for one, over in zip(classes, cut, strict=True)]
        return {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded(classes, IGNORED, self.multiple).long() if self.by_word else torch.cat(classes).long(),
        }

    def _ended(self, row: torch.Tensor, end: Sequence[int]) -> torch.Tensor:
        return torch.cat([row[: len(row) - len(end)], row.new_tensor(end)])
