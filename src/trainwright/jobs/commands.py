"""Commands of Python: how a process was begun, so that it can be begun again, and the same with changed parameters."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from trainwright.jobs.written import key, spelled

Words = list[str]
_WITH_VALUE = "cmWX"  # options of one letter that a value belongs to
_OWN = ("job_id",)  # the name of the job that it was
_OURS = (["-m", "trainwright"], ["-m", "trainwright.cli.main"])


def of_this_process() -> Words:
    """Return how this process was begun; none where that cannot be repeated, as in a notebook or from a pipe.

    A rank of torchrun was begun by it, and so is begun again by it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        try:
            parent = psutil.Process(os.getppid()).cmdline()
        except psutil.Error:
            parent = []
        if len(parent) > 1:
            return [parent[0] if Path(parent[0]).is_absolute() else sys.executable, *parent[1:]]
    options, program = split([sys.executable, *sys.orig_argv[1:]])
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not program or program[0] == "-" or (script is None and program[0] != "-c"):
        return []
    if (
        script is not None and program[0] not in ("-c", "-m") and not Path(program[0]).exists()
    ):  # the script has gone to another folder
        program[0] = str(Path(script).absolute())  # it has gone to another folder
    return [*options, *program]


def name_of(script: Path) -> str:
    """Return what a script is called: of one named main, and of a package's `__main__`, the name of its folder."""
    is_nameless = script.stem in ("main", "__main__")
    return (script.absolute().parent.name if is_nameless else "") or script.stem


def split(command: Sequence[str]) -> tuple[Words, Words]:
    """Return (Python with its options, what it runs and its arguments): `-m` or `-c` and a word, or a script."""
    words, place = list(command), 1
    while place < len(words) and words[place].startswith("-") and words[place] != "-":
        word = words[place]
        at = next((i for i, letter in enumerate(word) if letter in _WITH_VALUE), 0) if word[1] != "-" else 0
        if at and word[at] in "cm":
            before = [word[:at]] if at > 1 else []
            after = [word[at + 1 :]] if word[at + 1 :] else []
            return [*words[:place], *before], ["-" + word[at], *after, *words[place + 1 :]]
        alone = at == len(word) - 1 if at else word == "--check-hash-based-pycs"
        place += 2 if alone else 1
    return words[:place], words[place:]


def is_ours(command: Sequence[str]) -> bool:
    """Whether a command is `trainwright ...`."""
    _, program = split(command)
    return program[:2] in _OURS or Path(program[0] if program else "").stem == "trainwright"


def texts(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values of `a.b=1`, `--a.b=1` and `--a.b 1` as they are written."""
    found: dict[str, str] = {}
    rest = list(overrides)
    while rest:
        name, equals, text = rest.pop(0).removeprefix("--").partition("=")
        found[name] = text if equals else rest.pop(0) if rest else ""
    return found


def changed(command: Sequence[str], changes: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> Words:
    """Return a command with other parameters: in the place of a word of that name where there is one, else at the end.

    The words of `trainwright ...` are name=value, those of others --name=value; a switch is there, or it is not.

    Args:
        command: the command.
        changes: the parameters that change, by name.
        old: what the parameters were.
    """
    options, program = split(command)
    ours = is_ours(command)
    head = 2 if program[:1] in (["-m"], ["-c"]) else 1
    new, rest = dict(changes), program[head:]
    words: Words = []
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.removeprefix("--").partition("=")
        is_parameter = word.startswith("--") or (ours and equals)
        if not is_parameter or not (key(name) in changes or key(name) in _OWN):
            words.append(word)
            continue
        is_switch = not equals and (old or {}).get(key(name)) is True
        if not equals and not is_switch and rest and not rest[0].startswith("--"):
            rest.pop(0)
        if key(name) in new:
            value = new.pop(key(name))
            is_still = is_switch and isinstance(value, bool)
            words += ([word] if value else []) if is_still else [_word(name, value, ours)]
    return [*options, *program[:head], *words, *(_word(name, value, ours) for name, value in new.items())]


def _word(name: str, value: Any, ours: bool) -> str:
    return f"{'' if ours else '--'}{name}={spelled(value)}"
