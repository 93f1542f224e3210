"""Text that every machine has: the source of Python's own standard library, some files of it held out."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from trainwright.errors import DataError

HELD_OUT = 12
"""One file in so many is held out."""
_LEAST_BYTES = 1_000_000
_LEFT_OUT = re.compile(r"(^|/)(tests?|idle_test|encodings|pydoc_data|turtledemo|site-packages|dist-packages)/")


@dataclass(frozen=True)
class Corpus:
    """Texts to learn from and texts never seen, with where they come from."""

    origin: str
    train: list[str]
    held_out: list[str]


def python_source(root: Path | None = None) -> Corpus:
    """Return the source of Python's standard library, or of the installed packages where it ships without source.

    Which files are held out follows from their paths alone, so that it is the same in every run. Tests and generated
    tables are left out.

    Raises:
        DataError: there is not enough text.
    """
    paths = sysconfig.get_paths()
    roots = [root] if root is not None else [Path(paths["stdlib"]), Path(paths["purelib"])]
    size = 0
    for place in roots:
        corpus = _read(place)
        size = sum(map(len, corpus.train))
        if size >= _LEAST_BYTES or root is not None:
            return corpus
    raise DataError(f"Only {size} characters of Python source in {roots[-1]}; give dataset_kwargs.root=FOLDER.")


def _read(root: Path) -> Corpus:
    train: list[str] = []
    held_out: list[str] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if _LEFT_OUT.search(name):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue  # a file that is no text is no loss
        chosen = int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0
        (held_out if chosen else train).append(text)
    return Corpus(str(root), train, held_out)
