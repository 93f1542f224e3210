"""Answers to many prompts, a line of JSON for each; killed, it goes on without repeating or losing one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from trainwright.bars import counting
from trainwright.config.reading.writing import write_whole
from trainwright.data.sources import json_lines
from trainwright.errors import ConfigError
from trainwright.trained.asking.prompts import Message
from trainwright.trained.asking.writer import Writer

Prompt = str | list[Message]
_SETTINGS = ".settings.json"


class Answers:
    """A file of answers: `row` and `sample` of each, the prompt, what was `generated`, its `tokens`, and whether it
    `finished` by itself.

    Args:
        file: where it lies.
        settings: what the answers depend on.
        count: answers to every prompt.
        anew: whether answers that lie there give way.

    Raises:
        ConfigError: it holds answers that were made otherwise.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], count: int = 1, anew: bool = False) -> None:
        self.file = file
        self.count = count
        self.about = file.with_name(file.name + _SETTINGS)
        if anew:
            file.unlink(missing_ok=True)
            self.about.unlink(missing_ok=True)
        told = json.loads(self.about.read_text(encoding="utf-8")) if self.about.is_file() else None
        wanted = json.loads(json.dumps(settings))
        if file.exists() and told != wanted:
            differing = [name for name in wanted if not isinstance(told, dict) or told.get(name) != wanted[name]]
            what = (
                f"with another {' and '.join(differing)}".replace("another prompts", "other prompts")
                if told is not None
                else "by something else"
            )
            raise ConfigError(f"'{file}' holds what was made {what}. Give another file, or --overwrite.")
        file.parent.mkdir(parents=True, exist_ok=True)
        if told is None:
            write_whole(self.about, json.dumps(wanted, indent=1) + "\n")
        self.done = self._begun()

    def _begun(self) -> set[int]:
        """Return the rows that are answered; what a kill has left of a batch is cut off."""
        if not self.file.exists():
            return set()
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        counts: dict[int, int] = {}
        for line in whole.splitlines():
            row = json.loads(line)["row"]
            counts[row] = counts.get(row, 0) + 1
        short = {row for row, count in counts.items() if count < self.count}
        if short:
            whole = b"".join(line + b"\n" for line in whole.splitlines() if json.loads(line)["row"] not in short)
        if whole != content:
            write_whole(self.file, whole.decode("utf-8"))
        return set(counts) - short

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the answers of some rows, and see that they are on the disk."""
        with self.file.open("ab") as file:
            file.write(_written(lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def in_order(self) -> None:
        """Bring the rows, which were written after by their length, into the order of the prompts."""
        rows = lines_of(self.file) if self.file.exists() else []
        write_whole(self.file, _written(sorted(rows, key=itemgetter("row", "sample"))))


def generate(
    writer: Writer,
    prompts: Sequence[Prompt],
    file: Path,
    *,
    count: int = 1,
    seed: int = 0,
    anew: bool = False,
    about: Mapping[str, Any] | None = None,
) -> int:
    """Write `count` answers to every prompt into a file, or what is left of them; return how many prompts were left.

    Args:
        writer: the model.
        prompts: texts or conversations.
        file: of JSON lines.
        count: answers to every prompt.
        seed: of the random numbers; those of a row depend on it and the row alone.
        anew: whether answers that lie there give way.
        about: what else the answers depend on, such as which model.

    Raises:
        ConfigError: the file holds answers that were made otherwise.
        DataError: nothing can be written after a prompt; no answer is written then.
    """
    sampler, asker = writer.sampler, writer.asker
    settings: dict[str, Any] = {"sampling": asdict(sampler.settings), "system": asker.system, "as_chat": asker.as_chat}
    settings |= {"count": count, "seed": seed, "prompts": digest(prompts), **(about or {})}
    answers = Answers(file, settings, count, anew)
    ids = {row: asker.ids(prompt) for row, prompt in enumerate(prompts) if row not in answers.done}
    for row, prompt in ids.items():
        sampler.check(prompt, row)
    left = sorted(ids, key=lambda row: len(ids[row]))
    size = max(1, (sampler.batch_size or len(prompts)) // count)
    with counting(len(left), "prompts answered") as tell:
        for start in range(0, len(left), size):
            some = left[start : start + size]
            made = sampler.complete([ids[row] for row in some], [(seed, row) for row in some], count)
            written = [
                {"row": row, "sample": number, "prompt": prompts[row], "generated": writer.text(one.ids),
                 "tokens": len(one.ids), "finished": one.finished}
                for row, completions in zip(some, made, strict=True)
                for number, one in enumerate(completions)
            ]  # fmt: skip
            answers.add(written)
            tell(len(some))
    answers.in_order()
    return len(left)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the answers of a file, in its order."""
    return [*json_lines.read(file)]


def _written(answers: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)


def digest(prompts: Sequence[Prompt]) -> str:
    """Return a key of prompts."""
    return hashlib.blake2b(json.dumps(list(prompts)).encode(), digest_size=8).hexdigest()
