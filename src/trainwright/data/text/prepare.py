"""Rows of text become rows of tokens once: they are kept whole in memory-mapped files, keyed by content, tokenizer,
template and settings, and cut where they are read, so that runs of another length, packed or not, share them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainwright import __version__
from trainwright.data.text.parts import tokens_of
from trainwright.data.text.tokenize import TextRules
from trainwright.data.token_rows import TokenRows
from trainwright.errors import DataError

_VERSION = f"{__version__}/5"  # of what tokenising makes of a row
_NAMED = 5
_NOT_KEYED = ("tokenizer", "max_length")
_KEPT = ("trainwright.", "transformers.")  # packages whose versions tell what their code does


@dataclass
class Prepared:
    """Rows of tokens, and what was cut off or left out on the way.

    Attributes:
        rows: those with something to learn.
        cut: rows that were longer than max_length.
        lost: tokens that were cut off.
        left_out: numbers of rows without any target.
        too_long: rows that are left out since they would be cut.
        notes: what was wrong with the tokens that were kept, in sentences.
    """

    rows: TokenRows
    cut: int
    lost: int
    left_out: np.ndarray
    too_long: int = 0
    notes: list[str] = field(default_factory=list)

    def report(self, max_length: int | None, what: str) -> list[str]:
        """Return what the user should know, in sentences; empty where nothing was lost."""
        said = list(self.notes)
        total = len(self.rows) + len(self.left_out) + self.too_long
        if self.too_long:
            said.append(
                f"{self.too_long} of {total} rows of the {what} are longer than max_length={max_length}, and are left "
                "out: what is judged is not cut."
            )
        if self.cut:
            rows = f"All {total}" if self.cut == total else f"{self.cut} of {total}"
            said.append(
                f"{rows} rows of the {what} are longer than max_length={max_length}; "
                f"{self.lost} tokens at their ends are cut off."
            )
        if len(self.left_out):
            first = ", ".join(map(str, self.left_out[:_NAMED])) + (", ..." if len(self.left_out) > _NAMED else "")
            said.append(
                f"{len(self.left_out)} of {total} rows of the {what} have nothing to learn (no token is a target) and "
                f"are left out: {'row' if len(self.left_out) == 1 else 'rows'} {first}."
            )
        return said


def prepare(
    tables: Mapping[str, tuple[Any, TextRules]], mix: Callable[[list[Any]], Any], processes: int | None, what: str
) -> Prepared:
    """Return the rows of some datasets as tokens, each by its own rules, and then as one.

    Args:
        tables: by name, rows of text and how they are tokenised.
        mix: of tables with the same columns one.
        processes: that do the work, or None for one.
        what: which data, for messages and the progress bar.

    Raises:
        DataError: there is no row, or none with a target.
    """
    if not any(len(table) for table, _ in tables.values()):
        raise DataError(f"The {what} is empty: it has no row.")
    notes: list[str] = []
    given: Any = {"several": len(tables) > 1, "processes": processes, "what": what, "note": notes.append}
    made = mix([_named(name, *one, **given) for name, one in tables.items()])
    rules = next(iter(tables.values()))[1]
    cuts: Any = {"limit": None if rules.WHOLE else rules.max_length, "before": rules.BEFORE}
    everything = TokenRows(made, rules.COLUMNS, **cuts)
    cut, targets = everything.cut_off, _targets(everything, rules)
    fits = np.full(len(everything), True)
    if rules.WHOLE and rules.max_length is not None:
        fits = np.max([everything.sizes(name) for name in rules.LEARNED], axis=0) <= rules.max_length
    if not fits.any():
        raise DataError(f"Every row of the {what} is longer than max_length={rules.max_length}, and none is cut.")
    learned = fits & (targets.min(axis=0) > 0)
    if not learned.any():
        raise DataError(
            f"No row of the {what} has anything to learn: all labels are masked. Check max_length={rules.max_length} "
            "(prompts that fill it), completion_only_loss, assistant_only_loss and the chat template."
        )
    rows = TokenRows(made, rules.COLUMNS, np.flatnonzero(learned), **cuts)
    counts = targets[:, learned]
    rows.know(counts[0] if len(counts) == 1 else counts, int((cut > 0).sum()), rules.part)
    left_out = np.flatnonzero(fits & ~learned)
    return Prepared(
        rows,
        cut=int((cut > 0).sum()),
        lost=int(cut.sum()),
        left_out=left_out,
        too_long=int((~fits).sum()),
        notes=notes,
    )


def _named(name: str, table: Any, rules: TextRules, *, several: bool, **given: Any) -> Any:
    """Return a tokenised table; a mistake in it is told with its name, where there are several."""
    try:
        return _tokenised(table, rules, **given)
    except DataError as error:
        raise (DataError(f"'{name}': {error}") if several else error) from error.__cause__


def _tokenised(table: Any, rules: TextRules, **given: Any) -> Any:
    """Return the tokenised table, whole rows; see `tokens_of` for what else is given."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "trainwright" / fingerprint(table, rules)
    whole = replace(rules, max_length=None)
    return tokens_of(table, whole, features(rules), folder, **given)


def _targets(rows: TokenRows, rules: TextRules) -> np.ndarray:
    """Return what there is to learn of every row, shape (columns of `rules.LEARNED`, rows)."""
    return np.stack([rows.targets(name) if name == "labels" else rows.sizes(name) for name in rules.LEARNED])


def features(rules: TextRules) -> Any:
    """Return the columns of tokenised rows: lists of 32-bit integers, or of floats."""
    from datasets import Features, List, Value

    return Features({name: List(Value("float64" if name in rules.FLOATS else "int32")) for name in rules.COLUMNS})


def code_of(kind: type) -> str:
    """Return a key of the file that defines a class of the user's, or of what was typed where there is none."""
    from datasets.fingerprint import Hasher

    try:
        return hashlib.blake2b(Path(inspect.getfile(kind)).read_bytes(), digest_size=8).hexdigest()
    except (TypeError, OSError):
        return str(Hasher.hash(kind))


def _of_targets(tokenizer: Any) -> list[str]:
    """Return what tokenizers of translation have for what is written: languages, and a vocabulary of its own."""
    held = {name: getattr(tokenizer, name, None) for name in ("src_lang", "tgt_lang", "source_lang", "target_lang")}
    words = getattr(tokenizer, "target_encoder", None)
    return [repr(held), repr(sorted(words.items()) if words else None)] if any(held.values()) or words else []


def fingerprint(table: Any, rules: TextRules) -> str:
    """Return a key of the content and of everything that decides what tokenising makes of it, before rows are cut."""
    tokenizer = rules.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        _VERSION,
        table._fingerprint,
        backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items())),
        repr(getattr(tokenizer, "chat_template", None)),
        repr(sorted(tokenizer.special_tokens_map.items())),  # templates write them
        repr((type(tokenizer).__name__, getattr(tokenizer, "split_special_tokens", None))),
        *_of_targets(tokenizer),
        f"{type(rules).__module__}.{type(rules).__qualname__}",
        *(code_of(kind) for kind in (type(rules), type(tokenizer)) if not kind.__module__.startswith(_KEPT)),
        repr([(f.name, getattr(rules, f.name)) for f in fields(rules) if f.name not in _NOT_KEYED]),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
