"""Rows that have a class, or whose words have one each, as tokens and numbers of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch

from trainwright.batch import IGNORED
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import padded
from trainwright.data.text.tokenize import TextRules
from trainwright.errors import DataError, did_you_mean

CLASS = ("label", "labels")
WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "pos_tags", "labels")


def column_of(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first of some names that is a column."""
    return next((name for name in known if name in columns), None)


def names_in(tables: Sequence[Any], known: Sequence[str]) -> list[str]:
    """Return the names of the classes of some tables: those that `datasets` knows of the column, else all values.

    Raises:
        DataError: they are neither texts nor whole numbers.
    """
    found: set[Any] = set()
    for table in tables:
        column = column_of(table.column_names, known)
        if column is None:
            continue
        feature = table.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            return list(names)
        for value in table[column]:
            found.update(value if isinstance(value, list) else [value])
    found -= {None, IGNORED}
    if all(isinstance(one, str) for one in found):
        return sorted(found)
    if all(isinstance(one, int) and one >= 0 for one in found):  # which truth values are too
        return [str(number) for number in range(int(max(found)) + 1)]
    raise DataError("The classes are neither texts nor whole numbers from 0 on; say what they are in column_map.")


@dataclass(frozen=True)
class ClassRules(TextRules):
    """A text and its class.

    Attributes:
        names: of the classes, in their order.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("input_ids", "classes")
    LEARNED: ClassVar[tuple[str, ...]] = ("classes",)
    BEFORE: ClassVar[Mapping[str, str | None]] = {"input_ids": None}

    _: KW_ONLY
    names: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """What is learned, in words."""
        return "a class of each row"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of the text, with the tokenizer's own marks, and the number of its class."""
        ids = yield from self._encode(row[self.text_column])
        column = column_of(list(row), CLASS)
        return {"input_ids": ids, "classes": [self.number(row.get(column or "label"))]}

    def number(self, given: Any) -> int:
        """Return the number of a class that is given by its name or number.

        Raises:
            DataError: there is no such class.
        """
        if isinstance(given, int) and 0 <= given < len(self.names):
            return int(given)
        if isinstance(given, str) and given in self.names:
            return self.names.index(given)
        near = did_you_mean(given, self.names) if isinstance(given, str) else ""
        raise DataError(
            f"there is no class {given!r} among {', '.join(self.names)}.{near} All of them are named by "
            "training.trainer_kwargs.class_names"
        )


@dataclass(frozen=True)
class WordRules(ClassRules):
    """Words and a class of each: the class is that of a word's first token, as in transformers' own examples."""

    BEFORE: ClassVar[Mapping[str, str | None]] = {"input_ids": None, "classes": None}

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
        words, tags = row[column_of(names, WORDS) or WORDS[0]], row[column_of(names, TAGS) or TAGS[0]]
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
            else self.number(tags[place])
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
