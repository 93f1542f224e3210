"""Problems and answers from files: read, preprocessed, and split into tokens once."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.data.sources.formats import whole_numbers
from trainwright.errors import DataError
from trainwright.tasks.algebra.lexer import BOS, EOS, Lexer

DELIMITER = " # "
Pair = tuple[str, str]
Tokens = tuple[list[int], list[int]]
Source = str | dict[str, Any]
"""A row of a file: a line of text; or problem and answer, or ready tokens, by name."""
PICKLES = (".pkl", ".pickle")
_CACHE_FORMAT = 3
_SHOWN = 10  # rows that are named when more are wrong


def read_rows(path: Path, count: int = -1) -> Iterator[Pair | Tokens]:
    """Yield (problem, answer) of a file, as text or as ready tokens; see `read_sources`."""
    return map(pair_of, read_sources(path, count))


def read_sources(path: Path, count: int = -1) -> Iterator[Source]:
    """Yield the rows of a file as they are there: lines of text, or mappings.

    Args:
        path: .txt with lines `problem # answer`; .jsonl with the keys problem and answer, or input_ids and target_ids;
            .pkl with a list of pairs, or of mappings, of plain values.
        count: of the first rows; -1 for all.

    Raises:
        DataError: there is no such file, it is empty, or a row is none of these.
    """
    if not path.is_file():
        raise DataError(f"There is no data file '{path}' (looked for from {Path.cwd()}).")
    found = 0
    for source in _rows_of(path):
        if found == count:
            break
        found += 1
        yield source
    if not found:
        raise DataError(f"The data file '{path}' holds no problem.")


def _rows_of(path: Path) -> Iterator[Source]:
    if path.suffix in PICKLES:
        yield from unpickled(path)
        return
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _source(line.rstrip("\n"), path, number)
    except UnicodeDecodeError as error:
        raise DataError(f"The data file '{path}' is no UTF-8 ({error.reason}). Save it as UTF-8.") from None


def _source(line: str, path: Path, number: int) -> Source:
    if path.suffix in (".jsonl", ".json"):
        try:
            row = json.loads(line)
            if "input_ids" in row:
                return {name: whole_numbers(row[name]) for name in ("input_ids", "target_ids")}
            return {"problem": row["problem"], "answer": row["answer"] if "answer" in row else row["solution"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: no JSON with 'problem' and 'answer', or 'input_ids' and 'target_ids' ({error})."
            ) from None
    if DELIMITER.strip() not in line:
        raise DataError(f"{path}:{number}: {line[:60]!r} has no '#' between problem and answer.")
    return line


def pair_of(source: Source) -> Pair | Tokens:
    """Return the problem and the answer of a row, as text or as ready tokens."""
    if isinstance(source, str):
        problem, _, answer = source.partition(DELIMITER.strip())
        return problem.strip(), answer.strip()
    if "input_ids" in source:
        return source["input_ids"], source["target_ids"]
    return as_text(source["problem"]), as_text(source["answer"])


def as_text(value: Any) -> str:
    """Return a value as text; lists with ` | ` between their items, lists of lists with ` || `.

    Raises:
        DataError: lists are nested more deeply, or a text would not be read back as it is.
    """
    if isinstance(value, list):
        nested = any(isinstance(one, list) for one in value)
        if any(isinstance(inner, list) for one in value if isinstance(one, list) for inner in one):
            raise DataError(f"{str(value)[:60]} has lists three deep; ' | ' and ' || ' can show two.")
        return (" || " if nested else " | ").join(as_text(one) for one in value)
    text = str(value)
    if DELIMITER.strip() in text or len(text.splitlines()) > 1:
        raise DataError(f"{text[:60]!r} holds '#' or a line break, which are between problems and answers in files.")
    return text


class _PlainValues(pickle.Unpickler):
    """Reads numbers, texts, lists, tuples and mappings, and runs nothing that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataError(
            f"it holds objects of {module}.{name}, which are not loaded, for that would run code of the file. Write it "
            "as JSON lines with problem and answer as text, where these objects are known"
        )


def unpickled(path: Path) -> Iterator[Source]:
    """Yield the rows of a file that pickle wrote: a list of (problem, answer), or of mappings with these.

    Raises:
        DataError: it is none, or holds other than plain values.
    """
    try:
        with path.open("rb") as file:
            rows = _PlainValues(file).load()
    except (DataError, pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise DataError(f"The pickle '{path}' cannot be read: {error}.") from None
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if isinstance(row, dict) and "problem" in row and ("answer" in row or "solution" in row):
            yield {"problem": row["problem"], "answer": row.get("answer", row.get("solution"))}
        elif isinstance(row, tuple | list) and len(row) == 2 and isinstance(rows, list):
            yield {"problem": row[0], "answer": row[1]}
        else:
            raise DataError(f"{path}: row {number} is {str(row)[:60]!r}; a list of (problem, answer) is expected.")


class Problems(Dataset[Any]):
    """Problems and answers as tokens, from `<s>` to `</s>`.

    Attributes:
        values: the tokens of all problems and answers, one after the other; int32.
        offsets: where each begins, a problem and its answer in turn; int64, shape (2 · rows + 1,).
        description: what they were made from, once `IOPipeline` has built them.
    """

    description: dict[str, Any]

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values = values
        self.offsets = offsets

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a row: input_ids and target_ids of shape (tokens,), both from `<s>` to `</s>`."""
        a, b, c = self.offsets[2 * index : 2 * index + 3]
        return {
            "input_ids": torch.from_numpy(self.values[a:b].astype(np.int64)),
            "target_ids": torch.from_numpy(self.values[b:c].astype(np.int64)),
        }

    def problems(self) -> Iterator[bytes]:
        """Yield the tokens of every problem, as a key."""
        for row in range(len(self)):
            yield self.values[self.offsets[2 * row] : self.offsets[2 * row + 1]].tobytes()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every problem and answer together; int64, shape (rows,)."""
        lengths: np.ndarray = self.offsets[2::2] - self.offsets[:-2:2]
        return lengths

    @property
    def content(self) -> tuple[np.ndarray, np.ndarray]:
        """What of it is data."""
        return self.values, self.offsets

    @property
    def key(self) -> str:
        """A hash of all problems and answers."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.values).tobytes(), digest_size=8)
        digest.update(np.ascontiguousarray(self.offsets).tobytes())
        return digest.hexdigest()


def shared_problems(train: Problems, test: Problems) -> int:
    """Return how many problems of the test data are in the training data too."""
    asked = list(test.problems())
    known = set(asked).intersection(train.problems())
    return sum(problem in known for problem in asked)


def unknown_answers(problems: Problems, unknown: int) -> int:
    """Return how many answers hold the token `unknown`."""
    places = np.flatnonzero(problems.values == unknown)
    texts = np.searchsorted(problems.offsets, places, side="right") - 1  # a problem and its answer in turn
    return len(np.unique(texts[texts % 2 == 1]))


def tokens_of(rows: Iterator[Any], lexer: Lexer, read: Callable[[Any], Pair | Tokens], what: str) -> Problems:
    """Return problems and answers as tokens.

    Args:
        rows: of a file.
        lexer: splits texts.
        read: makes of a row its texts, or ready tokens, these with or without `<s>` and `</s>`.
        what: which data, for messages.

    Raises:
        DataError: a row holds what the vocabulary has not, with its number.
    """
    ids = {token: number for number, token in enumerate(lexer.vocabulary)}
    values: list[int] = []
    offsets = [0]
    wrong: dict[int, DataError] = {}
    for number, row in enumerate(rows):
        try:
            for one in read(row):
                inner = _ready(one, ids) if isinstance(one, list) else [ids[token] for token in lexer.tokenize(one)]
                values += [ids[BOS], *inner, ids[EOS]]
                offsets.append(len(values))
        except DataError as error:
            wrong[number] = error
    if wrong:
        first, *others = wrong
        more = f" {len(others)} more rows cannot be read: {', '.join(map(str, others[:_SHOWN]))}" if others else ""
        more += ", ..." if len(others) > _SHOWN else "." if others else ""
        raise DataError(f"Row {first} of the {what}: {wrong[first]}{more}") from None
    return Problems(np.array(values, dtype=np.int32), np.array(offsets, dtype=np.int64))


def _ready(given: Sequence[int], ids: dict[str, int]) -> Sequence[int]:
    """Return ready tokens without their ends."""
    wrong = [one for one in given if not 0 <= one < len(ids)]
    if wrong:
        raise DataError(f"holds the token {wrong[0]}; the lexer's vocabulary has {len(ids)}.")
    start = 1 if given and given[0] == ids[BOS] else 0
    return given[start : -1 if given and given[-1] == ids[EOS] else None]


def cached(
    path: Path, count: int, lexer: Lexer, *, about: Any, read: Callable[[Source], Pair | Tokens], what: str
) -> Problems:
    """Return the tokens of a file, memory-mapped from the cache; made on first use.

    The key is the content of everything that decides about them, so a changed file, lexer or preprocessor is another.

    Args:
        about: what `read` does, as text; None for the user's own code, whose tokens are not kept.
    """
    if about is None or not path.is_file():
        return tokens_of(read_sources(path, count), lexer, read, what)
    parts = [_CACHE_FORMAT, count, path.suffix, lexer.vocabulary, vars(lexer.numbers), lexer.strict, about]
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    digest.update(json.dumps(parts, sort_keys=True).encode())
    folder = cache_folder() / digest.hexdigest()
    if not folder.is_dir():
        _keep(tokens_of(read_sources(path, count), lexer, read, what), folder)
    # as plain arrays over the mapped files: a slice of a memmap costs four times as much
    return Problems(*(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("values", "offsets")))


def cache_folder() -> Path:
    """Return where tokens are kept: `$XDG_CACHE_HOME/trainwright/algebra`, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainwright" / "algebra"


def _keep(made: Problems, folder: Path) -> None:
    """Write tokens so that the folder is there whole or not at all, whoever else writes it too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent))
    np.save(new / "values.npy", made.values)
    np.save(new / "offsets.npy", made.offsets)
    try:
        new.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(new)
        if not folder.is_dir():
            raise
