"""`trainwright doors script.py`: the imports of other packages' names, as they are written here."""

from __future__ import annotations

import argparse
import ast
import codecs
import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainwright.cli.tour.moved import NOT_HERE, Row, System, system_of
from trainwright.errors import ConfigError


@dataclass(frozen=True)
class Change:
    """What stands in a script's bytes from `start` to `end`, and what is to stand there."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Note:
    """What a person has to look at, and the line where it stands."""

    line: int
    text: str


def run(argv: Sequence[str]) -> int:
    """Print the lines that would change, and what has no counterpart; with --write, change the files."""
    parser = argparse.ArgumentParser(
        prog="trainwright doors", description="Show how a script's imports of other packages are written here."
    )
    parser.add_argument("scripts", nargs="+", type=Path, metavar="SCRIPT", help="a Python file")
    parser.add_argument("--write", action="store_true", help="change the files")
    args = parser.parse_args(argv)
    read = [(path, *moved(path)) for path in args.scripts]
    for path, old, new, notes in read:
        sys.stdout.writelines(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(
                old.splitlines(keepends=True), new.splitlines(keepends=True), str(path), str(path)
            )
        )
        sys.stdout.flush()
        for note in notes:
            print(f"{path}:{note.line}: {note.text}", file=sys.stderr)
        if old == new and not notes:
            print(f"{path}: no import of another package's that is written differently here.", file=sys.stderr)
        if args.write and old != new:
            try:
                path.write_text(new, encoding="utf-8", newline="")
            except OSError as error:
                raise ConfigError(f"'{path}' cannot be written: {error.strerror}.") from None
            print(f"{path}: written.", file=sys.stderr)
    return 0


def moved(path: Path) -> tuple[str, str, list[Note]]:
    """Return a script as it is, as it is written here, and what to look at.

    Raises:
        ConfigError: it is no Python script.
    """
    try:
        content = path.read_bytes()
        old = content.decode("utf-8")
        tree = ast.parse(content)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}.") from None
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}," if isinstance(error, SyntaxError) and error.lineno else ""
        raise ConfigError(f"'{path}'{line} is no Python: {getattr(error, 'msg', error)}.") from None
    script, notes = _Script(content), []
    changes: list[Change] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            change, said = _from(node, script)
        elif isinstance(node, ast.Import):
            change, said = _whole(node, script, tree)
        else:
            continue
        changes += [change] if change else []
        notes += said
    for change in sorted(changes, key=lambda one: one.start, reverse=True):
        content = content[: change.start] + change.new.encode() + content[change.end :]
    return old, content.decode("utf-8"), sorted(notes, key=lambda note: note.line)


class _Script:
    """The bytes of a script, by line and column as ast counts them."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.starts = [0]
        for line in content.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        if content.startswith(codecs.BOM_UTF8):
            self.starts[0] = len(codecs.BOM_UTF8)  # which ast does not count

    def span(self, node: ast.stmt) -> tuple[int, int]:
        """Return where a statement begins and ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def between(self, node: ast.stmt) -> str:
        """Return what stands between two statements in the place of one: a line's end and its indent, or `; `."""
        start, end = self.span(node)
        before = self.content[self.starts[node.lineno - 1] : start].decode()
        after = self.content[end:].split(b"\n", 1)[0].strip()
        newline = "\r\n" if b"\r\n" in self.content else "\n"
        return f"{newline}{before}" if not before.strip() and not after.startswith(b";") else "; "


def _from(node: ast.ImportFrom, script: _Script) -> tuple[Change | None, list[Note]]:
    """Return how `from module import names` changes, and what is to be said of names that no module here has."""
    module = node.module or ""
    system = system_of(module)
    if system is None:
        return None, []
    notes, places = [], []
    for alias in node.names:
        row = system.row(alias.name)
        place = row.new if row else _elsewhere(system, module, alias.name)
        if not place and not (system.own and row is None):
            notes.append(Note(node.lineno, _missing(f"{module}.{alias.name}", row)))
        places.append(place or module)
    if set(places) == {module}:
        return None, notes
    start, end = script.span(node)
    if len(set(places)) == 1:  # the names stay as they stand, with their comments
        said = script.content[start:end].decode()
        return Change(start, end, said.replace(module, places[0], 1)), notes
    lines = []
    for place in dict.fromkeys(places):
        names = [_said(alias) for alias, one in zip(node.names, places, strict=True) if one == place]
        lines.append(f"from {place} import {', '.join(names)}")
    return Change(start, end, script.between(node).join(lines)), notes


def _elsewhere(system: System, module: str, name: str) -> str:
    """Return where a name that no row has is found here too, if it is."""
    return "" if name.startswith(NOT_HERE) else dict(system.rest).get(module, "")


def _whole(node: ast.Import, script: _Script, tree: ast.Module) -> tuple[Change | None, list[Note]]:
    """Return how `import module` changes, and what is to be said of it and of what is asked of the module."""
    notes, said = [], []
    for alias in node.names:
        system = system_of(alias.name)
        new = dict(system.whole).get(alias.name) if system else None
        if system is None or (new is None and system.own):
            said.append(_said(alias))
        elif new is None or ("." in alias.name and not alias.asname):
            said.append(_said(alias))
            notes.append(Note(node.lineno, f"import {alias.name}: import the names that are used, each by itself."))
        else:
            name = alias.asname or alias.name
            said.append(f"{new} as {name}" if name != new else new)
            notes += _asked(tree, name, alias.name, system)
    if said == [_said(alias) for alias in node.names]:
        return None, notes
    start, end = script.span(node)
    return Change(start, end, f"import {', '.join(said)}"), notes


def _asked(tree: ast.Module, name: str, module: str, system: System) -> Iterator[Note]:
    """Yield what is to be said of attributes of a module that is replaced as a whole."""
    new = dict(system.whole)[module]
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name):
            continue
        row = system.row(node.attr)
        found = row.new == new if row else system.own and not node.attr.startswith(NOT_HERE)
        if not found:
            yield Note(node.lineno, _missing(f"{module}.{node.attr}", row))


def _missing(name: str, row: Row | None) -> str:
    if name.endswith(".*"):
        return f"{name}: import the names that are used, each by itself."
    if row and row.new:
        return f"{name} is in {row.new} here; import it by itself."
    return f"{name} has no counterpart here{f'; instead: {row.note}' if row else ''}."


def _said(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name
