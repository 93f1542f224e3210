"""Problems of a task on disk: made in parallel, the same for any number of processes, and never shared between the
training and the test data."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import yaml

from trainwright.data.counting import counting
from trainwright.errors import DataError
from trainwright.tasks.algebra.data import DELIMITER, as_text
from trainwright.tasks.algebra.problems import Pair, task_named

_TEST_SHARE = 16  # one problem in so many belongs to the test data, whatever seed made it
_CHUNK = 500
_TRIES = 1000
_NAMES = {"txt": "raw.txt", "jsonl": "data.jsonl"}
Generator = Callable[[int], Pair]


def belongs_to_test(problem: str) -> bool:
    """Whether a problem may be in the test data; in the training data it may not be then."""
    return hashlib.blake2b(problem.encode(), digest_size=4).digest()[0] % _TEST_SHARE == 0


def draw(make: Generator, root_seed: int, test: bool, index: int) -> Pair:
    """Return row `index` of a split; the same in every process.

    Raises:
        DataError: the generator makes no problem for this split.
    """
    for attempt in range(_TRIES):
        seed = hashlib.blake2b(f"{root_seed}/{test}/{index}/{attempt}".encode(), digest_size=8).digest()
        problem, answer = make(int.from_bytes(seed, "big"))
        if belongs_to_test(as_text(problem)) == test:
            return problem, answer
    raise DataError(
        f"In {_TRIES} tries the generator made no problem for the {'test' if test else 'training'} data; it makes too "
        "few different ones."
    )


def from_task(name: str, seed: int) -> Pair:
    """Return the problem of a task for a seed."""
    return task_named(name).make(random.Random(seed))


def _part(make: Generator, root_seed: int, test: bool, indices: range) -> list[Pair]:
    return [draw(make, root_seed, test, index) for index in indices]


def pairs(make: Generator, count: int, root_seed: int, test: bool, processes: int | None = None) -> Iterator[Pair]:
    """Yield the rows of a split, in order.

    Args:
        make: `f(seed)` returns (problem, answer) and draws from the seed alone.
        count: rows.
        root_seed: of everything.
        test: the test data, or the training data.
        processes: that make them; all processors when not given.
    """
    parts = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    work = partial(_part, make, root_seed, test)
    number = min(processes or os.cpu_count() or 1, len(parts))
    if number <= 1:
        yield from chain.from_iterable(map(work, parts))
        return
    with ProcessPoolExecutor(number) as pool, counting(count, "problems") as tell:
        for made in pool.map(work, parts):
            tell(len(made))
            yield from made


def write_problems(
    make: Generator, folder: Path, counts: dict[str, int], root_seed: int = 42, processes: int | None = None,
    forms: Sequence[str] = ("txt",),
) -> None:  # fmt: skip
    """Write the problems of every split into a folder: train_raw.txt, test_raw.txt, and *_data.jsonl where asked.

    Args:
        make: `f(seed)` returns (problem, answer): texts, numbers, or lists of them.
        counts: rows of "train" and "test".
        forms: txt, jsonl, or both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        with ExitStack() as open_files:
            files = {form: open_files.enter_context((folder / f"{split}_{_NAMES[form]}").open("w")) for form in forms}
            for problem, answer in pairs(make, count, root_seed, split == "test", processes):
                if "txt" in files:
                    files["txt"].write(f"{as_text(problem)}{DELIMITER}{as_text(answer)}\n")
                if "jsonl" in files:
                    files["jsonl"].write(json.dumps({"problem": problem, "answer": answer}) + "\n")


def write_task(
    name: str, folder: Path, train: int, test: int, root_seed: int = 42, processes: int | None = None
) -> Path:
    """Write train_raw.txt, test_raw.txt and lexer.yaml of a task into a folder; return the folder."""
    write_problems(partial(from_task, name), folder, {"train": train, "test": test}, root_seed, processes)
    (folder / "lexer.yaml").write_text(yaml.safe_dump(task_named(name).lexer, sort_keys=False), encoding="utf-8")
    return folder
