"""Which file a command is about, and what it is told besides."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from trainwright.errors import ConfigError


def file_among(given: Path | None, words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the file of a command line and its overrides: that of `-c`, else the word that is no override.

    argparse cannot tell `run.yaml` from the 9 in `--training.max_steps 9`.

    Args:
        given: after `-c`.
        words: those that argparse does not know.
    """
    if given is not None:
        return given, list(words)
    belongs = False  # to the name before it
    for place, word in enumerate(words):
        if not belongs and not word.startswith("--") and "=" not in word:
            return Path(word), [*words[:place], *words[place + 1 :]]
        belongs = not belongs and word.startswith("--") and "=" not in word
    return None, list(words)


def file_and_overrides(given: Path | None, words: Sequence[str], command: str) -> tuple[Path, list[str]]:
    """Return the file of a command line and its overrides, as `file_among`.

    Raises:
        ConfigError: there is no file.
    """
    file, overrides = file_among(given, words)
    if file is None:
        raise ConfigError(f"Give the run's YAML file: trainwright {command} FILE.")
    return file, overrides


def to_write(path: Path) -> Path:
    """Return the file that a command will write, its folder made: what cannot be written is told before the work.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise ConfigError(f"'{path}' cannot be written: {why}.") from None
    if path.is_dir():
        raise ConfigError(f"'{path}' is a folder; give the name of a file.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"'{path}' cannot be written: {os.strerror(errno.EACCES)}.")
    return path


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command; its `overrides` may stand after options too, where argparse takes none."""
    args, rest = parser.parse_known_args(argv)
    more = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(more) < len(rest) or (more and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if more:
        args.overrides = [*args.overrides, *more]
    return args
