"""What a script declares of its parameters, read from its text: a slip of the pen is told before the job waits."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs.written import key

_OURS = ("job_id", "input_file", "experiment_name", "output_dir", "dataset_name", "dataset", "model_name")
_ITS_OWN_WAY = ("argv", "orig_argv", "parse_known_args", "parse_args_into_dataclasses")


def check(script: Path, given: Iterable[str]) -> None:
    """Look for parameters that a script does not have.

    Refused is only what it neither declares by `add_argument` nor mentions in any way, and what is so like a declared
    one that it must be meant. Of a script that reads its command line in a way of its own nothing is known.

    Raises:
        JobError: there is one.
    """
    try:
        nodes = [*ast.walk(ast.parse(script.read_text(encoding="utf-8-sig")))]
    except (SyntaxError, ValueError, RecursionError):
        return  # it fails when it runs, and says where
    declared, mentioned = {*_declared(nodes)}, {key(word) for word in _words(nodes)}
    if not declared or not mentioned.isdisjoint(_ITS_OWN_WAY):
        return
    for name in given:
        own = key(name).removeprefix("no_")
        if own in mentioned or own in _OURS or any(one.startswith(own) for one in declared):
            continue
        meant = did_you_mean(own, sorted(declared))
        if meant:
            raise JobError(f"--param {name}: '{script.name}' declares no such parameter.{meant}")


def _declared(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names of the options that are declared."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            for word in node.args:
                if isinstance(word, ast.Constant) and isinstance(word.value, str) and word.value.startswith("--"):
                    yield key(word.value[2:])


def _words(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield everything that a text names."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.removeprefix("--")
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.arg
