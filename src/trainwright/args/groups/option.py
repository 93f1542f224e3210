"""How an argument is declared: its default and one line of help, which parsers and the docs read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """Declare a dataclass field with its default and help text."""
    return field(default=default, metadata={"help": help})


def flag(default: Any, help: str) -> Any:
    """Declare a field that is True where a command line names it without a value."""
    return field(default=default, metadata={"help": help, "nargs": "?", "const": True})


def list_option(factory: Callable[[], list[Any]], help: str) -> Any:
    """Declare a dataclass field whose default is a new list."""
    return field(default_factory=factory, metadata={"help": help})
