"""A job's parameters: from its file, from the command line, from the queue; with defaults and types checked at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainwright.errors import JobError, did_you_mean

_OWN = ("job_id", "input_file", "experiment_name")


class Params(Mapping[str, Any]):
    """Parameters by name: `params.learning_rate`, `params["learning_rate"]`, `params.get("learning_rate", 1e-4)`."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_values" not in self.__dict__:
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(
                f"There is no parameter '{name}'.{did_you_mean(name, self._values)} Give it with --{name} VALUE or in "
                f"--input_file, or take params.get('{name}', DEFAULT)."
            )
        return self._values[name]


class Parser(argparse.ArgumentParser):
    """Reads a command line; a mistake in it is a JobError."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        for name in _OWN:
            self.add_argument(f"--{name}")

    def error(self, message: str) -> NoReturn:
        """Raise the mistake."""
        raise JobError(f"The command line: {message}.")


def read(parser: argparse.ArgumentParser, argv: Sequence[str], queued: Path | None) -> dict[str, Any]:
    """Return the parameters: of the command line, else of its input file, else of the queue, else the defaults.

    Args:
        parser: of the declared ones, with their types and defaults; others become numbers where they are some.
        argv: the command line.
        queued: the file of the queue.

    Raises:
        JobError: a file that is none, or a declared parameter that is missing or of another type.
    """
    file = own_options(argv)["input_file"]
    values = json.loads(queued.read_text(encoding="utf-8")) if queued is not None and queued.is_file() else {}
    if file:
        values |= read_file(Path(file))
    declared = {action.dest: action for action in parser._actions}
    for name in values.keys() & declared.keys():
        values[name] = _typed(parser, declared[name], values[name])
        declared[name].required = False
    known, rest = parser.parse_known_args(list(argv))
    for name, value in vars(known).items():
        given = any(part.split("=")[0] in declared[name].option_strings for part in argv)
        if given or (name not in values and value is not None):
            values[name] = value
    return {name: value for name, value in {**values, **undeclared(rest)}.items() if name not in _OWN}


def _typed(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    try:
        typed = parser._get_value(action, str(value)) if action.type is not None and value is not None else value
        parser._check_value(action, typed)
    except argparse.ArgumentError as error:
        raise JobError(f"The parameter '{action.dest}' is {value!r}: {error.message}.") from None
    return typed


def own_options(argv: Sequence[str]) -> dict[str, str | None]:
    """Return job_id, input_file and experiment_name of a command line."""
    found = Parser().parse_known_args(list(argv))[0]
    return {name: getattr(found, name) for name in _OWN}


def read_file(path: Path) -> dict[str, Any]:
    """Return the parameters of a JSON or YAML file; where it has a section `config`, that one.

    Raises:
        JobError: there is no such file, or it holds no names and values.
    """
    if not path.is_file():
        raise JobError(f"--input_file: there is no file '{path}' (looked for from {Path.cwd()}).")
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise JobError(f"--input_file '{path}' is no YAML: {error}") from None
    else:
        try:
            content = json.loads(text)
        except ValueError as error:
            raise JobError(f"--input_file '{path}' is no JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        content = content["config"]
    if not isinstance(content, dict):
        raise JobError(f"--input_file '{path}' holds {type(content).__name__}; names and values are expected.")
    return content


def undeclared(rest: Sequence[str]) -> dict[str, Any]:
    """Return `--name value` and `--name=value` of a command line; a name without a value is true."""
    found: dict[str, Any] = {}
    parts = list(rest)
    while parts:
        part = parts.pop(0)
        if not part.startswith("--") or len(part) == 2:
            continue
        name, equals, value = part[2:].partition("=")
        if not equals and parts and not parts[0].startswith("--"):
            value, equals = parts.pop(0), "="
        found[name.replace("-", "_")] = scalar(value) if equals else True
    return found


def scalar(text: str) -> Any:
    """Return a number or true and false where a text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
