"""Problems and answers from files: read, preprocessed, split into tokens once, and made into batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.batch import IGNORED
from trainwright.data.text_collators import padded
from trainwright.errors import DataError
from trainwright.tasks.algebra.lexer import Lexer

DELIMITER = " # "
Pair = tuple[str, str]


def read_pairs(path: Path, count: int = -1) -> list[Pair]:
    """Return (problem, answer) of a file: lines `problem # answer`, or JSON lines with these keys.

    Args:
        path: .txt, or .jsonl.
        count: of the first rows; -1 for all.

    Raises:
        DataError: there is no such file, or a line is neither.
    """
    if not path.is_file():
        raise DataError(f"There is no data file '{path}' (looked for from {Path.cwd()}).")
    pairs: list[Pair] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if 0 <= count <= len(pairs):
                break
            if line.strip():
                pairs.append(_pair(line.rstrip("\n"), path, number))
    if not pairs:
        raise DataError(f"The data file '{path}' holds no problem.")
    return pairs


def _pair(line: str, path: Path, number: int) -> Pair:
    if path.suffix in (".jsonl", ".json"):
        try:
            row = json.loads(line)
            return _text(row["problem"]), _text(row["answer"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: no JSON with 'problem' and 'answer' ({error}).") from None
    problem, found, answer = line.partition(DELIMITER.strip())
    if not found:
        raise DataError(f"{path}:{number}: {line[:60]!r} has no '#' between problem and answer.")
    return problem.strip(), answer.strip()


def _text(value: Any) -> str:
    """Return a value as text; lists with ` | ` between their items, lists of lists with ` || `."""
    if isinstance(value, list):
        nested = any(isinstance(one, list) for one in value)
        return (" || " if nested else " | ").join(_text(one) for one in value)
    return str(value)


def content_hash(pairs: Iterable[Pair]) -> str:
    """Return a key of problems and answers."""
    digest = hashlib.blake2b(digest_size=8)
    for problem, answer in pairs:
        digest.update(f"{problem}\0{answer}\0".encode())
    return digest.hexdigest()


def shared_problems(train: Sequence[Pair], test: Sequence[Pair]) -> int:
    """Return how many problems of the test data are in the training data too."""
    known = {problem for problem, _ in train}
    return sum(problem in known for problem, _ in test)


class Problems(Dataset):
    """Problems and answers as tokens, split once.

    Args:
        pairs: problem and answer as text.
        lexer: splits them.
        tokenizer: the lexer's, for ids.
        what: which data, for messages.

    Raises:
        DataError: a text holds what the vocabulary has not, with its row.
    """

    def __init__(self, pairs: Sequence[Pair], lexer: Lexer, tokenizer: Any, what: str) -> None:
        self.pairs = pairs
        ids = {token: number for number, token in enumerate(lexer.vocabulary)}
        start, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        values: list[int] = []
        offsets = [0]
        for row, pair in enumerate(pairs):
            for text in pair:
                try:
                    values += start + [ids[token] for token in lexer.tokenize(text)] + end
                except DataError as error:
                    raise DataError(f"Row {row} of the {what}: {error}") from None
                offsets.append(len(values))
        self.values = np.array(values, dtype=np.int32)
        self.offsets = np.array(offsets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a row: input_ids and target_ids of shape (tokens,), both from `<s>` to `</s>`."""
        a, b, c = self.offsets[2 * index : 2 * index + 3]
        return {
            "input_ids": torch.from_numpy(self.values[a:b].astype(np.int64)),
            "target_ids": torch.from_numpy(self.values[b:c].astype(np.int64)),
        }

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every problem and answer together; int64, shape (rows,)."""
        return self.offsets[2::2] - self.offsets[:-2:2]


@dataclass(frozen=True)
class EncoderDecoderBatch:
    """Batches for models that read the problem with an encoder and write the answer with a decoder.

    decoder_input_ids are the answer without its last token, labels without its first; shape (rows, tokens).
    """

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some rows."""
        ids = [row["input_ids"] for row in rows]
        answers = [row["target_ids"] for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id, None),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, None),
            "decoder_input_ids": padded([one[:-1] for one in answers], self.pad_token_id, None),
            "decoder_attention_mask": padded([torch.ones_like(one[:-1]) for one in answers], 0, None),
            "labels": padded([one[1:] for one in answers], IGNORED, None),
        }


@dataclass(frozen=True)
class DecoderBatch:
    """Batches for models that read the problem and go on with the answer: `<s> problem [SEP] answer </s>`.

    The answer and its end are labels; shape (rows, tokens).
    """

    pad_token_id: int
    sep_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some rows."""
        prompts = [self.prompt(row["input_ids"]) for row in rows]
        answers = [row["target_ids"][1:] for row in rows]
        ids = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
        labels = [torch.cat([torch.full_like(p, IGNORED), a]) for p, a in zip(prompts, answers, strict=True)]
        return {
            "input_ids": padded(ids, self.pad_token_id, None),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, None),
            "labels": padded(labels, IGNORED, None),
        }

    def prompt(self, problem: torch.Tensor) -> torch.Tensor:
        """Return what the model is given before it writes an answer."""
        return torch.cat([problem[:-1], torch.tensor([self.sep_token_id])])


Preprocessor = Callable[[Pair], Pair]


def reversed_order(pair: Pair) -> Pair:
    """Return the answer's items, between ` | `, in reversed order."""
    problem, answer = pair
    return problem, " | ".join(reversed([one.strip() for one in answer.split("|")]))


def last_element(pair: Pair) -> Pair:
    """Return the last of the answer's items alone."""
    problem, answer = pair
    return problem, answer.split("|")[-1].strip()


PREPROCESSORS: dict[str, Preprocessor] = {"reversed_order": reversed_order, "last_element": last_element}
