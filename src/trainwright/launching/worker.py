"""What the launcher begins: `python -m trainwright.launching.worker script.py ...`, a program that leaves a word when
it fails. What the user must change is said by the launcher, once for all processes."""

from __future__ import annotations

import sys

started = frozenset(sys.modules)

import argparse  # noqa: E402
from types import TracebackType  # noqa: E402
from typing import NoReturn  # noqa: E402

from trainwright.jobs.worker.program import run  # noqa: E402
from trainwright.launching import verdict  # noqa: E402

_MISUSED = 2  # the exit code of a command whose words are wrong


class _Misuse(SystemExit):
    """The words of a command are wrong, as argparse has found."""

    def __init__(self, said: str) -> None:
        super().__init__(_MISUSED)
        self.said = said


def main(program: list[str]) -> None:
    """Run a program as this process's own.

    Args:
        program: a script and its words, or `-m`, a module and its words.
    """
    script = None if program[0] == "-m" else program[0]
    verdict.listened = True

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not verdict.leave(verdict.of(error, script)):
            print(verdict.trace_of(error, script), end="", file=sys.stderr, flush=True)

    sys.excepthook = uncaught
    argparse.ArgumentParser.error = _misused  # type: ignore[method-assign, assignment]  # which prints, in every process
    try:
        run(program, started)
    except SystemExit as stop:
        if stop.code == _MISUSED and not verdict.left():
            said = stop.said if isinstance(stop, _Misuse) else "It left with exit code 2, of words that are wrong."
            verdict.leave(verdict.Verdict(verdict.MISTAKE, "", said))
        raise


def _misused(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    raise _Misuse(f"{parser.format_usage()}{parser.prog}: error: {message}")


if __name__ == "__main__":
    main(sys.argv[1:])
