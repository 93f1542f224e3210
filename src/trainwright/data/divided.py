"""Whether data is divided among the ranks before it comes to us: then it must not be divided again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from trainwright import randomness
from trainwright.data.fingerprint import row_digests
from trainwright.data.introspection import is_of_library, is_prepared, is_stream, length_of

_SHARE = (("num_replicas", "rank"), ("num_processes", "process_index"), ("world_size", "rank"))
"""How samplers and datasets name the number of parts, and which one is theirs: torch, accelerate, datasets."""
_WITHIN = ("sampler", "batch_sampler", "batches", "dataset", "datasets", "stream", "_distributed")
_KEPT = (
    "collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator",
    "prefetch_factor",
)  # fmt: skip
_PARTS = 64
_ALIKE = 0.5  # part of the rows that two ranks have in common, above which they are no parts of one whole
_DENSE = 64  # the numbers of a rank's rows lie below so many times as many as it has


class Share(NamedTuple):
    """What a sampler or dataset says of the part of the data that it gives: of how many parts, and which one.

    Attributes:
        kind: its class.
        known: whether that is a library's, which divides as it says.
    """

    kind: str
    parts: int
    own: int
    known: bool


class Held(NamedTuple):
    """What data, or an attribute of it, holds on this rank.

    Attributes:
        digests: of its rows.
        tells: whether these say which rows they are: not where all are alike, or count from 0.
        may_be_rows: whether they are more than numbers, or whole numbers not many times as large as there are.
    """

    digests: list[str]
    tells: bool = True
    may_be_rows: bool = True


def divides_itself(data: Any) -> bool:
    """Whether a loader, or the sampler, batch sampler or dataset within, says that it gives this rank its part."""
    return is_prepared(data) or bool(shares(data))


def shares(data: Any) -> list[Share]:
    """Return what a loader, and the samplers and datasets within, say of their part of the data."""
    return [share for part in _parts(data) if (share := _share(part)) is not None]


def _share(part: Any) -> Share | None:
    """Return the number of parts and its own that an object names; of rows by number the rows tell, see `held`."""
    for size, index in _SHARE[: 2 if hasattr(part, "__getitem__") else 3]:
        parts, own = getattr(part, size, None), getattr(part, index, None)
        if isinstance(parts, int) and isinstance(own, int) and parts > 1:
            return Share(type(part).__name__, parts, own, is_of_library(part))
    return None


def _parts(data: Any) -> Iterator[Any]:
    """Yield a loader and what it is made of."""
    seen: dict[int, Any] = {}
    waiting = [data]
    while waiting and len(seen) < _PARTS:
        part = waiting.pop(0)
        if part is None or id(part) in seen:
            continue
        seen[id(part)] = part
        yield part
        within = [getattr(part, name, None) for name in _WITHIN]
        waiting += [inner for one in within for inner in (one[:_PARTS] if isinstance(one, list) else [one])]


def held(data: Any) -> dict[str, Held]:
    """Return what data holds on this rank, or what its attributes hold; nothing where it says nothing.

    Of a user's code only `__len__` runs. Of a class of theirs the lists and arrays count that are as long as it is,
    or, of a stream, lists of names and numbers: rows, their numbers, the files that they come from.
    """
    if type(data).__module__.startswith("trainwright."):
        return {}
    try:
        rows = row_digests(data)
        if rows is not None:
            return {"rows": Held(rows)}
        parts = dict(vars(data))
        length = length_of(data)
        named = {name: _names(part, length) for name, part in parts.items() if not isinstance(part, str)}
        found = {name: _held(part) for name, part in named.items()}
    except Exception:  # of objects that cannot be looked at, nothing is said; reading them says what is wrong
        return {}
    return {name: one for name, one in found.items() if one is not None}


def _held(part: Any) -> Held | None:
    digests = row_digests(part)
    if not digests:
        return None
    differ = len(set(digests)) > 1
    is_number = isinstance(part[0], int | float | np.generic) or (
        isinstance(part[0], torch.Tensor) and not part[0].ndim
    )
    if not is_number:
        return Held(digests, differ)
    numbers = np.asarray(part)
    whole = numbers.dtype.kind in "iu" and numbers.min() >= 0
    counts = np.array_equal(numbers, np.arange(len(numbers)))
    return Held(digests, differ and not counts, bool(whole and numbers.max() < _DENSE * len(numbers)))


def _names(part: Any, length: int | None) -> Any:
    """Return an attribute that may be the rows of a dataset of that length, or the names of a stream's; else None."""
    if length is not None:
        return part if length_of(part) == length else None
    is_list = type(part) in (list, tuple) and all(isinstance(one, str | int | Path) for one in part)
    return [str(one) for one in part] if is_list else None


def relation(everyone: Sequence[dict[str, Held]]) -> tuple[str, list[str]]:
    """Return how what the ranks hold lies to each other, and the names of what differs: "same", "apart", "mixed", or
    "open" where some of it is the same and some is not, or what differs may be drawn: numbers that are none of rows."""
    names = [name for name in everyone[0] if all(name in one for one in everyone)]
    each = {name: [one[name] for one in everyone] for name in names}
    kinds = {name: _relation([one.digests for one in found]) for name, found in each.items()}
    told = {name: kind for name, kind in kinds.items() if any(one.tells for one in each[name])}
    apart = [name for name, kind in told.items() if kind == "apart"]
    if not apart:
        mixed = [name for name, kind in told.items() if kind == "mixed"]
        return ("mixed", mixed) if mixed else ("same", [])
    are_rows = any(all(one.may_be_rows for one in each[name]) for name in apart)
    return "open" if "same" in told.values() or not are_rows else "apart", apart


def _relation(everyone: list[list[str]]) -> str:
    if all(one == everyone[0] for one in everyone):
        return "same"
    pairs = [(set(one), set(other)) for one, other in combinations(everyone, 2)]
    return "apart" if all(len(a & b) <= _ALIKE * min(len(a), len(b)) for a, b in pairs) else "mixed"


def drawn_alike(loader: Any, seed: int) -> list[list[Any]] | None:
    """Return the batches of row numbers of a torch loader that divides itself, drawn alike on all ranks; None where it
    is another loader, or has none."""
    batches = getattr(loader, "batch_sampler", None)
    if type(loader) is not DataLoader or batches is None or is_stream(loader.dataset):
        return None
    with randomness.Together(seed):
        return list(batches)


def each_once(everyone: Sequence[list[list[Any]]], length: int) -> list[list[list[Any]]]:
    """Return the batches of all ranks without the rows that samplers repeat to give every rank as many.

    Args:
        everyone: the batches of every rank, rank by rank.
        length: the number of rows; where there are no more in the batches, they are as the user wants them.
    """
    if sum(len(batch) for batches in everyone for batch in batches) <= length:
        return list(everyone)
    seen: set[Any] = set()
    kept: list[list[list[Any]]] = []
    for batches in everyone:
        kept.append([])
        for batch in batches:
            new = [row for row in dict.fromkeys(batch) if row not in seen]
            seen.update(new)
            if new:
                kept[-1].append(new)
    return kept


def of_batches(loader: DataLoader[Any], batches: list[list[Any]]) -> DataLoader[Any]:
    """Return a loader of these batches, in everything else like another one."""
    kept = {name: getattr(loader, name) for name in _KEPT if loader.num_workers or name != "prefetch_factor"}
    return DataLoader(loader.dataset, batch_sampler=batches, **kept)
