"""Files of JSON lines, whose lines end where JSON's do: a text in them may hold what `str.splitlines` cuts at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def lines(text: str) -> list[str]:
    """Return the lines of a text that are not empty, as editors and `open` count them: no U+2028 ends one."""
    return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]


def read(path: Path) -> Iterator[Any]:
    """Yield what the lines of a file hold.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)
