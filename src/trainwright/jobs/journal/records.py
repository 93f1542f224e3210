"""The records of a journal: what each kind holds. One that does not hold it is told apart before it does any harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from trainwright.jobs import values
from trainwright.jobs.journal.timesheet import PARTS
from trainwright.jobs.status import ENDED

Record = dict[str, Any]
_NUMBER = partial(values.whole, below=2**31)  # of the database's smaller columns


def parse(line: bytes) -> Record:
    """Return the record that a line of a journal is, with values that the database holds.

    Raises:
        ValueError: it is none; it says why.
    """
    try:
        found = json.loads(line.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is no JSON") from None
    kind = found.get("k") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{values.text(line.decode(errors='replace').strip(), 60)} is no record")
    record: Record = {"k": kind}
    for name, convert in _KINDS[kind].items():
        try:
            record[name] = convert(found.get(name))
        except ValueError as error:
            raise ValueError(f"in the record '{kind}', '{name}': {error}") from None
    return record


def _perhaps(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _some_text(value: Any, longest: int | None = None) -> str:
    if value is None:
        raise ValueError("it is missing")
    return values.text(value, longest)


def _end(value: Any) -> str:
    if value not in ENDED:
        raise ValueError(f"{values.plain(value)!r} is not how a job ends")
    return str(value)


def _names_and_values(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("names and values are expected")
    return dict(values.plain(value))


def _words(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError("words are expected")
    return value


def _seconds(value: Any) -> dict[str, float]:
    return {part: values.finite(_names_and_values(value).get(part, 0.0)) for part in PARTS}


_NAME = partial(_some_text, longest=values.NAME_LENGTH)
_KIND = partial(_some_text, longest=values.KIND_LENGTH)
_NAMED: dict[str, Callable[[Any], Any]] = {
    "t": values.finite, "name": _NAME, "experiment": _perhaps(_NAME), "params": _names_and_values,
    "command": _perhaps(_words), "cwd": _perhaps(values.text), "restarts": _perhaps(_NUMBER),
}  # fmt: skip
_KINDS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "submit": {**_NAMED, "after": _perhaps(_NAME), "gpus": _perhaps(_NUMBER),
               "defaults": _perhaps(_names_and_values), "kept": _perhaps(_names_and_values)},
    "start": {**_NAMED, "pid": _NUMBER, "pid_created": _perhaps(values.finite), "boot": _perhaps(_NAME), "host": _NAME,
              "attempt": _perhaps(_NUMBER), "worker": _perhaps(_NAME), "defaults": _perhaps(_names_and_values)},
    "label": {"t": values.finite, "tags": _perhaps(_words), "note": _perhaps(values.text)},
    "params": {"t": values.finite, "params": _names_and_values, "defaults": _perhaps(_names_and_values)},
    "metric": {"t": values.finite, "name": _NAME, "value": _perhaps(values.number), "step": values.whole},
    "progress": {"t": values.finite, "progress": _perhaps(values.finite), "step": _perhaps(values.whole),
                 "total_steps": _perhaps(values.whole), "attempt": _perhaps(_NUMBER)},
    "data": {"t": values.finite, "name": _NAME, "value": values.plain},
    "kept": {"t": values.finite, "name": _NAME, "value": values.plain},
    "time": {"t": values.finite, "began": values.finite, "run": _some_text, "first_step": values.whole,
             "reached": values.whole, "step": values.whole, "spent": _seconds},
    "event": {"t": values.finite, "kind": _KIND, "text": _some_text},
    "artifact": {"t": values.finite, "kind": _KIND, "path": _some_text, "step": _perhaps(values.whole)},
    "status": {"t": values.finite, "status": _end, "message": _perhaps(values.text),
               "traceback": _perhaps(values.text), "attempt": _perhaps(_NUMBER)},
}  # fmt: skip
