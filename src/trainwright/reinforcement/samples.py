"""What was written in a run, with what it earned: a file for every generation, for people."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.data.sources import json_lines
from trainwright.errors import DataError

if TYPE_CHECKING:
    from trainwright.reinforcement.generation import Generation

FOLDER = "completions"
TRAINED, HELD_OUT = "step", "held-out"  # how names of files begin
_WIDEST = 300  # characters of a text that are shown


def write(
    run_folder: Path, generation: Generation, decode: Callable[[list[int]], str], group: int, kind: str = TRAINED
) -> None:
    """Write what a generation holds as text, one line for each completion.

    Args:
        decode: tokens to text.
        group: completions of a prompt.
        kind: whether they were trained on, `TRAINED`, or are of prompts `HELD_OUT`.
    """
    path = run_folder / FOLDER / f"{kind}-{generation.step}-{generation.epoch}-{generation.number}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        for number, (prompt, completion) in enumerate(zip(generation.prompts, generation.completions, strict=True)):
            rewards = zip(generation.functions, generation.rewards[number].tolist(), strict=True)
            line = {
                "row": generation.rows[number // group],
                "prompt": decode(prompt.tolist()),
                "completion": decode(completion.tolist()),
                "tokens": len(completion),
                "finished": bool(generation.finished[number]),
                "rewards": {name: _known(value) for name, value in rewards},
                "reward": _known(float(generation.totals[number])),
                "advantage": float(generation.advantages[number]),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    part.replace(path)


def _known(value: float) -> float | None:
    return None if value != value else value


def newest(run_folder: Path, step: int | None = None, kind: str = TRAINED) -> Path:
    """Return the file of the generation that a step was trained on, or of the last evaluation up to its end; the last
    file, where no step is given.

    Raises:
        DataError: there is none.
    """
    files = sorted((_place(path), path) for path in (run_folder / FOLDER).glob(f"{kind}-*.jsonl"))
    if not files:
        where = "" if kind == TRAINED else " of prompts held out (data.validation)"
        raise DataError(
            f"'{run_folder}' has no completions{where}: it is no run of GRPO or RLOO, or has not written any yet."
        )
    latest = step if step is None or kind == HELD_OUT else step - 1
    able = [path for (begun, *_), path in files if latest is None or begun <= latest]
    if not able:
        first = files[0][0][0] + (kind == TRAINED)
        raise DataError(f"The first completions of '{run_folder}' were written for step {first}, not for step {step}.")
    return able[-1]


def _place(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.stem.split("-")[-3:])


def read(path: Path) -> list[dict[str, Any]]:
    """Return the completions in a file, group after group."""
    return [*json_lines.read(path)]


def shown(completions: list[dict[str, Any]], groups: int) -> Iterator[str]:
    """Yield lines for the first groups of some completions: each with what it earned and is worth, the best first."""
    for number, (row, some) in enumerate(groupby(completions, key=lambda one: one["row"])):
        if number == groups:
            return
        group = sorted(some, key=lambda one: -one["advantage"])
        yield f"--- row {row}: {_short(group[0]['prompt'])}"
        for one in group:
            rewards = ", ".join(f"{name} {_figure(value)}" for name, value in one["rewards"].items())
            end = "" if one["finished"] else ", cut off"
            yield f"  {one['advantage']:+.3f}  reward {_figure(one['reward'])} ({rewards}), {one['tokens']} tokens{end}"
            yield f"          {_short(one['completion'])}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _short(text: str) -> str:
    """Return a text on one line, no longer than can be read, without what would move or colour a terminal."""
    line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return line if len(line) <= _WIDEST else f"{line[:_WIDEST]} ..."
