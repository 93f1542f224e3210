"""`trainer_state.json` of a run of any length: what was logged becomes text once, and a save copies its bytes.

The file is, byte for byte, what `TrainerState.save_to_json` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from trainwright.state import TrainerState, as_json

OPEN = 100  # newest entries that are made text anew by every save, since callbacks add to what was just logged
_EMPTY = '\n  "log_history": []'
_BEGIN = b'\n  "log_history": [\n'
_END = b"\n  ]"
_BETWEEN = b",\n"
_BORDER = b"\n    },\n    {"  # between two entries; no text in JSON holds a line break
_PLAIN = {float, int, str, bool, type(None)}


@dataclass(frozen=True)
class Text:
    """What a file is to hold, in pieces; those between `head` and `tail` are the first `count` of a list that grows."""

    head: bytes
    pieces: list[bytes]
    count: int
    tail: bytes
    size: int

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        yield from islice(self.pieces, self.count)
        yield self.tail


@dataclass
class History:
    """The text of what was logged, but for the newest entries.

    An entry that is older than the newest hundred stays as it was when it became text, whatever is changed in it then;
    entries that are taken out or put in are noticed.
    """

    _pieces: list[bytes] = field(default_factory=list)
    _count: int = 0  # entries that are text
    _size: int = 0  # its bytes
    _last: Any = None  # the last of these entries

    def keep_up(self, entries: list[Any]) -> None:
        """Make text of old entries, as soon as there is a hundred of them."""
        if self._count and (len(entries) < self._count or entries[self._count - 1] is not self._last):
            self._pieces, self._count, self._size = [], 0, 0  # a new list: a save may be reading the other
        if len(entries) - self._count >= 2 * OPEN:
            self._add(text_of(entries[self._count : -OPEN]), entries, len(entries) - OPEN)

    def go_on(self, file: Path, entries: list[Any]) -> None:
        """Take the text of old entries out of the file that they were read from, if it is laid out as ours are."""
        content = file.read_bytes()
        begin = content.find(_BEGIN) + len(_BEGIN)
        end = content.find(_END, begin)
        if begin < len(_BEGIN) or len(entries) <= OPEN or content.count(_BORDER, begin, end) != len(entries) - 1:
            return
        for _ in range(OPEN):
            end = content.rfind(_BORDER, begin, end)
        self._add(content[begin : end + len(b"\n    }")], entries, len(entries) - OPEN)

    def file_of(self, state: TrainerState) -> Text:
        """Return what `trainer_state.json` is to hold.

        Raises:
            TypeError, ValueError: a new entry has no form as JSON.
        """
        entries = state.log_history
        self.keep_up(entries)
        head, _, tail = replace(state, log_history=[]).to_json().partition(_EMPTY)
        if not entries:
            whole = (head + _EMPTY + tail).encode()
            return Text(whole, [], 0, b"", len(whole))
        newest = text_of(entries[self._count :])
        begin, end = head.encode() + _BEGIN, newest + _END + tail.encode()
        return Text(begin, self._pieces, len(self._pieces), end, len(begin) + self._size + len(end))

    def _add(self, text: bytes, entries: list[Any], count: int) -> None:
        self._pieces.append(text + _BETWEEN)
        self._count, self._size, self._last = count, self._size + len(text) + len(_BETWEEN), entries[count - 1]


def text_of(entries: list[Any]) -> bytes:
    """Return the lines of some entries in `trainer_state.json`."""
    return _BETWEEN.join(_lines(entry).encode() for entry in entries)


def _lines(entry: Any) -> str:
    if isinstance(entry, dict) and entry and _PLAIN.issuperset(map(type, entry.values())):
        flat = json.dumps(entry, sort_keys=True, separators=(",\n      ", ": "))  # without `indent` it is written in C
        return f"    {{\n      {flat[1:-1]}\n    }}"
    whole = json.dumps(entry, indent=2, sort_keys=True, default=as_json)
    return "    " + whole.replace("\n", "\n    ")
