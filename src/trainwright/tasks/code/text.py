"""What a code model learns from, kept in the folder of its run: one that goes on has the same text and tokens at once,
whatever happened to the files meanwhile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.data.sources.python_source import python_source
from trainwright.errors import DataError
from trainwright.tasks.code.functions import functions_of
from trainwright.tasks.code.tokens import encode, new_tokenizer, train_tokenizer

TEXT = "text.json"
_LEARNS_FROM = 3  # the tokenizer, one function in so many: its merges hardly change with more
_MEASURED = 2  # one file in so many of those held out, so that an evaluation takes no longer than a few steps


@dataclass(frozen=True)
class Text:
    """Tokens to learn from, and functions never seen.

    Attributes:
        about: where it comes from, in a sentence.
        tokenizer: learned from it.
        train: tokens, int64, shape (tokens,).
        held_out: functions never seen.
        held_out_tokens: the same, shape (tokens,).
    """

    about: str
    tokenizer: Any
    train: np.ndarray
    held_out: list[str]
    held_out_tokens: np.ndarray


def text_of(root: str | None, vocab_size: int, folder: Path) -> Text:
    """Return the text of a run: as it is kept in the run's folder, or read, tokenised and kept there.

    Args:
        root: a folder of source files; Python's own library when not given.
        vocab_size: of the tokenizer.
        folder: of the run.

    Raises:
        DataError: there is not enough text.
    """
    path, asked = folder / TEXT, [root, vocab_size]
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["asked"] == asked:
            tokenizer = new_tokenizer(kept["tokenizer"])
            return _text(kept["about"], tokenizer, np.load(path.with_suffix(".npy")), kept["held_out"])
    corpus = python_source(Path(root) if root else None)
    learned = functions_of(corpus.train)
    held_out = functions_of(corpus.held_out[::_MEASURED])
    if not learned or not held_out:
        raise DataError(
            f"'{corpus.origin}' holds too few functions: {len(learned)} to learn from, {len(held_out)} not."
        )
    tokenizer = train_tokenizer(learned[::_LEARNS_FROM], vocab_size)
    train = encode(tokenizer, learned)
    about = (
        f"{len(learned):,} functions, {sum(map(len, learned)) / 1e6:.1f} MB, of {len(corpus.train)} files of "
        f"{corpus.origin}, comments and docstrings left out; {len(held_out)} functions of other files are held out."
    )
    kept = {
        "about": about,
        "asked": asked,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "held_out": held_out,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it is there only beside its tokens, and whole
    np.save(path.with_suffix(".npy"), train)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(kept), encoding="utf-8")
    new.replace(path)
    return _text(about, tokenizer, train, held_out)


def _text(about: str, tokenizer: Any, train: np.ndarray, held_out: list[str]) -> Text:
    return Text(about, tokenizer, train, held_out, encode(tokenizer, held_out))
