"""Problems of a task on disk: made in parallel, the same for any number of processes, and never shared between the
training and the test data."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from trainwright.bars import counting
from trainwright.errors import DataError
from trainwright.tasks.algebra.data import DELIMITER, as_text
from trainwright.tasks.algebra.derived import Statistics, Vocabulary
from trainwright.tasks.algebra.forms import alike
from trainwright.tasks.algebra.problems import Pair, Task, task_named

_TEST_SHARE = 16  # one problem in so many belongs to the test data, whatever seed made it
_CHUNK = 500
_TRIES = 1000
_ABOUT, LEXER = "problems.json", "lexer.yaml"
NAMES = {"txt": "raw.txt", "jsonl": "data.jsonl"}
Generator = Callable[[int], Pair]
Form = Callable[[str], str]


def belongs_to_test(problem: str) -> bool:
    """Whether a problem, in the form that all ways to write it have, may be in the test data; in the training data it
    may not be then."""
    return hashlib.blake2b(problem.encode(), digest_size=4).digest()[0] % _TEST_SHARE == 0


def draw(make: Generator, root_seed: int, test: bool, index: int, form: Form = alike) -> Pair:
    """Return row `index` of a split; the same in every process.

    Args:
        form: of a problem, the same for all problems that are one.

    Raises:
        DataError: the generator makes no problem for this split.
    """
    for attempt in range(_TRIES):
        seed = hashlib.blake2b(f"{root_seed}/{test}/{index}/{attempt}".encode(), digest_size=8).digest()
        made = make(int.from_bytes(seed, "big"))
        if not isinstance(made, tuple) or len(made) != 2:
            raise DataError(f"The generator made {str(made)[:60]!r} of a seed; a pair (problem, answer) is expected.")
        problem, answer = made
        if belongs_to_test(form(as_text(problem))) == test:
            return problem, answer
    raise DataError(
        f"In {_TRIES} tries the generator made no problem for the {'test' if test else 'training'} data; it makes too "
        "few different ones."
    )


def from_task(name: str, seed: int) -> Pair:
    """Return the problem of a task for a seed."""
    return task_named(name).make(random.Random(seed))


def _part(make: Generator, root_seed: int, test: bool, form: Form, indices: range) -> list[Pair]:
    first = partial(draw, make, root_seed, test, indices[0], form)
    _check_alike(first(), first())
    return [draw(make, root_seed, test, index, form) for index in indices]


def _check_alike(made: Pair, again: Pair) -> None:
    """Refuse a generator that does not make a row again; only if it does, rows differ by their seeds alone."""
    one, other = (DELIMITER.join(map(as_text, pair)) for pair in (made, again))
    if one != other:
        raise DataError(
            f"For one seed the generator made {one[:60]!r}, and then {other[:60]!r}. It may draw from its seed alone, "
            "such as with random.Random(seed): not from random or numpy.random, whose numbers go on from call to call "
            "and may be the same in all processes."
        )


def pairs(
    make: Generator, count: int, root_seed: int, test: bool, *, processes: int | None = None, form: Form = alike
) -> Iterator[Pair]:
    """Yield the rows of a split, in order.

    Args:
        make: `f(seed)` returns (problem, answer) and draws from the seed alone.
        count: rows.
        root_seed: of everything.
        test: the test data, or the training data.
        processes: that make them; all processors when not given.
        form: of a problem, the same for all problems that are one.

    Raises:
        DataError: the generator makes too few different problems, or does not draw from its seed alone.
    """
    parts = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    work = partial(_part, make, root_seed, test, form)
    number = min(processes or os.cpu_count() or 1, len(parts))
    if number <= 1:
        yield from chain.from_iterable(map(work, parts))
        return
    with ProcessPoolExecutor(number) as pool, counting(count, "problems") as tell:
        for part, made in zip(parts, pool.map(work, parts), strict=True):
            if part[0] == 0:  # what depends on the process differs from what this one makes
                _check_alike(made[0], draw(make, root_seed, test, 0, form))
            tell(len(made))
            yield from made


def write_problems(
    make: Generator, folder: Path, counts: dict[str, int], root_seed: int = 42, *, processes: int | None = None,
    kinds: Sequence[str] = ("txt",), task: Task | None = None, measure: Callable[[Any, Any], Any] | None = None,
) -> None:  # fmt: skip
    """Write the problems of every split into a folder: train_raw.txt, test_raw.txt, and *_data.jsonl where asked; and
    lexer.yaml, unless the folder has one of the user's.

    They are there when all of them are made, and not before.

    Args:
        make: `f(seed)` returns (problem, answer): texts, numbers, or lists of them.
        counts: rows of "train" and "test".
        kinds: of files: txt, jsonl, or both.
        task: whose problems they are; its lexer.yaml is written. Without one, it is made for the tokens that there are.
        measure: see `Statistics`; *_stats.yaml is written too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    form = alike if task is None else task.problem_form
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        new = Path(name)
        vocabulary = Vocabulary()
        text = json.dumps(description(task, counts, root_seed), indent=1)
        (new / _ABOUT).write_text(text + "\n", encoding="utf-8")
        for split, count in counts.items():
            rows = pairs(make, count, root_seed, split == "test", processes=processes, form=form)
            statistics = None if measure is None else Statistics(measure)
            rows = _watched(rows, vocabulary if task is None else None, statistics)
            _write(rows, {kind: new / f"{split}_{NAMES[kind]}" for kind in kinds})
            if statistics is not None:
                write_yaml(new / f"{split}_stats.yaml", statistics.summary())
        if task is not None or not (folder / LEXER).exists():
            write_yaml(new / LEXER, vocabulary.lexer() if task is None else task.lexer)
        folder.mkdir(exist_ok=True)
        for file in sorted(new.iterdir()):
            file.replace(folder / file.name)


def _watched(rows: Iterator[Pair], vocabulary: Vocabulary | None, statistics: Statistics | None) -> Iterator[Pair]:
    """Yield the rows, and take note of them."""
    for problem, answer in rows:
        if vocabulary is not None:
            vocabulary.add(as_text(problem))
            vocabulary.add(as_text(answer))
        if statistics is not None:
            statistics.add(problem, answer)
        yield problem, answer


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a file of YAML, its keys in the order in which they are."""
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def description(task: Task | None, counts: dict[str, int], root_seed: int) -> dict[str, Any]:
    """Return what decides which problems `write_problems` writes, by the names of a section `dataset`; a task of None
    is a generator of the user's."""
    numbers = {f"num_{split}_samples": count for split, count in counts.items()}
    return {"task": None if task is None else task.name, **numbers, "root_seed": root_seed}


def about(folder: Path) -> dict[str, Any] | None:
    """Return the description of the problems in a folder; None where there is none."""
    file = folder / _ABOUT
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def are_written(folder: Path, splits: Sequence[str], kinds: Sequence[str]) -> bool:
    """Whether a folder holds all problems that `write_problems` writes."""
    return all((folder / f"{split}_{NAMES[kind]}").is_file() for split in splits for kind in kinds)


def _write(rows: Iterator[Pair], places: dict[str, Path]) -> None:
    with ExitStack() as open_files:
        files = {kind: open_files.enter_context(path.open("w", encoding="utf-8")) for kind, path in places.items()}
        for problem, answer in rows:
            if "txt" in files:
                files["txt"].write(f"{as_text(problem)}{DELIMITER}{as_text(answer)}\n")
            if "jsonl" in files:
                files["jsonl"].write(json.dumps({"problem": problem, "answer": answer}) + "\n")


def write_task(
    name: str, folder: Path, train: int, test: int, root_seed: int = 42, *, processes: int | None = None
) -> Path:
    """Write train_raw.txt, test_raw.txt and lexer.yaml of a task into a folder; return the folder."""
    counts = {"train": train, "test": test}
    write_problems(partial(from_task, name), folder, counts, root_seed, processes=processes, task=task_named(name))
    return folder
