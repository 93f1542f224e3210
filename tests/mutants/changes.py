"""The functions of a file, and the small faults (mutmut's) that can be put into them."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment, operator_string

# What is said to people and to type checkers is not mutated.
WORDS = cst.Annotation | cst.Decorator | cst.Raise | cst.Assert | cst.FormattedString | cst.Import | cst.ImportFrom
SPEAKING = {"note", "tell", "print", "warn", "warning", "exception"}
# Words again; and `x = None`, which fails at once wherever a test runs the line and so would flatter the score.
UNUSED = {operator_string, operator_assignment}


@dataclass(frozen=True)
class Function:
    """An outermost function or method: its name within the file, its text and the lines of its body, from 1."""

    name: str
    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Mutant:
    """A change of one function. `key` is made of the function's text and the change: it holds where the file moves."""

    key: str
    path: str
    function: str
    line: int
    before: str
    after: str
    span: tuple[int, int]

    def applied(self, text: str) -> str | None:
        """Return the file with the change, or None where it is the same program or none."""
        source = text.encode()
        changed = (source[: self.span[0]] + self.after.encode() + source[self.span[1] :]).decode()
        try:
            same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text))
        except SyntaxError:
            return None
        return None if same else changed


def functions(text: str) -> list[Function]:
    """Return the functions of a file and the methods of its classes; those inside of functions belong to these."""

    def found(body: list[ast.stmt], within: str) -> Iterator[Function]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from found(node.body, f"{within}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                last = node.end_lineno or node.lineno
                source = "".join(lines[node.lineno - 1 : last])
                yield Function(within + node.name, source, node.body[0].lineno, last)

    lines = text.splitlines(keepends=True)
    return list(found(ast.parse(text).body, ""))


class _Collector(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, WORDS):
            return False
        if isinstance(node, cst.Call) and _called(node) in SPEAKING:
            return False
        span = self.get_metadata(ByteSpanPositionProvider, node, None)
        if span is not None:
            self.found += [(span.start, span.start + span.length, changed) for changed in _changed(node)]
        return True


def _changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind) and operator not in UNUSED:
            for changed in operator(node):
                if operator is not operator_arg_removal or _lost_an_option(node, changed):
                    yield changed


def _lost_an_option(before: cst.Call, after: cst.Call) -> bool:
    """Is the argument that a call lost its last or one by keyword? Without another, most calls fail at once."""
    lost = [one for one in before.args if one not in after.args]
    return len(after.args) < len(before.args) and (lost[0] is before.args[-1] or lost[0].keyword is not None)


def _called(call: cst.Call) -> str:
    name = call.func.attr if isinstance(call.func, cst.Attribute) else call.func
    return name.value if isinstance(name, cst.Name) else ""


def mutants(path: str, text: str) -> list[Mutant]:
    """Return every mutant of a file's functions."""
    wrapper = MetadataWrapper(cst.parse_module(text))
    collector = _Collector()
    wrapper.visit(collector)
    source, known, made = text.encode(), functions(text), []
    for start, end, node in collector.found:
        line = source.count(b"\n", 0, start) + 1
        function = next((one for one in known if one.first <= line <= one.last), None)
        if function is None:
            continue
        before, after = source[start:end].decode(), wrapper.module.code_for_node(node)
        top = text.encode().find(function.text.encode())
        key = hashlib.sha256(f"{function.name}\n{function.text}\n{start - top} {before} {after}".encode())
        made.append(Mutant(key.hexdigest()[:12], path, function.name, line, before, after, (start, end)))
    return made
