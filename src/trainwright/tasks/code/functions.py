"""The functions of programs, each alone and all written the same way."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence


def functions_of(texts: Sequence[str]) -> list[str]:
    """Return the functions of some programs; what is no program of this Python's is left out."""
    found = []
    for text in texts:
        try:
            found += functions(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
    return found


def functions(text: str) -> list[str]:
    """Return the functions of a program, methods too, each without comments and docstrings, as `ast.unparse` writes it.

    Those that do nothing are left out; functions within functions stay where they are.

    Raises:
        SyntaxError, ValueError: it is no program.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in texts, which is no concern of ours
        tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and is_docstring(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
    return [ast.unparse(node) for node in _outermost(tree) if does_something(node)]


def _outermost(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield the functions that are in no other one, in their order."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.stmt):
            yield from _outermost(node)


def does_something(function: ast.FunctionDef) -> bool:
    """Whether a function has a statement besides docstring and pass."""
    return any(not isinstance(one, ast.Pass) and not is_docstring(one) for one in function.body)


def is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a text."""
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str)
