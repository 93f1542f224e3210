"""A job's parameters: from its file, from the command line, from the queue; with defaults and types checked at once."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs.written import guessed, key, like, spelled, truth

_OWN = {
    "job_id": "the job's name",
    "input_file": "parameters, in JSON or YAML; the command line goes before them",
    "experiment_name": "a group of jobs",
}
_OUTPUT = "output_dir"  # which we give where nobody does
_SWITCHES = (argparse._StoreTrueAction, argparse._StoreFalseAction, argparse.BooleanOptionalAction)
_SEVERAL = (argparse._AppendAction, argparse._ExtendAction)


class Params(MutableMapping[str, Any]):
    """Parameters by name: `params.learning_rate`, `params["learning_rate"]`, `params.get("learning_rate", 1e-4)`.

    As an attribute a missing one is None. What a script sets is read in all three ways. `job_id`, `input_file` and
    `experiment_name` are there too, but are none of the parameters that are counted, kept and compared.

    Args:
        values: by name.
        written: of those that nobody declared, the text that was written.
        own: job_id, input_file and experiment_name.
        config: what the input file holds, as it is there.
        undeclared: the names of those that somebody gave for this job alone and nobody declared.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        written: Mapping[str, str] | None = None,
        own: Mapping[str, str | None] | None = None,
        config: Mapping[str, Any] | None = None,
        undeclared: Iterable[str] = (),
    ) -> None:
        self._values = dict(values or {})
        self._written = dict(written or {})
        self._own = {name: value for name, value in (own or {}).items() if value is not None}
        self._config = dict(config or {})
        self._undeclared = {*undeclared}
        self._asked: set[str] = set()
        self._said: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        name = key(name)
        self._asked.add(name)
        return self._values[name] if name in self._values else self._own[name]

    def __setitem__(self, name: str, value: Any) -> None:
        name = key(name)
        self._written.pop(name, None)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[key(name)]
        self._written.pop(key(name), None)

    def __iter__(self) -> Iterator[str]:
        self._asked |= self._values.keys()
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter, or the default; of a text that was written the value of the default's type."""
        name = key(name)
        self._asked.add(name)
        if name in self._written and default is not None:
            return like(self._written[name], default)
        return self._values.get(name, self._own.get(name, default))

    def with_defaults(self, values: Mapping[str, Any], job_id: str) -> Params:
        """Return these parameters, with more where they are not given, of a job."""
        own = {**self._own, "job_id": job_id}
        return Params({**values, **self._values}, self._written, own, self._config, self._undeclared)

    def begin(self) -> None:
        """Begin to note what is asked for: what was asked before, only we did."""
        self._asked.clear()

    def never_read(self) -> list[str]:
        """Return the undeclared parameters that nobody has asked for since `begin`, sorted."""
        return sorted(self._undeclared & self._values.keys() - self._asked)

    def asked_in_vain(self) -> list[str]:
        """Return the names that were asked for and are not there."""
        return sorted(self._asked - self._values.keys())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values and name not in self._own:
            self._asked.add(name)
            self._say_what_is_missing(name)
            return None
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def _say_what_is_missing(self, name: str) -> None:
        """Say, once, that a parameter which is None for it is not there may be a slip of the pen."""
        meant = did_you_mean(name, self._values)
        if meant and name not in self._said:
            self._said.add(name)
            print(f"Note: there is no parameter '{name}', so it is None.{meant}", file=sys.stderr, flush=True)


def as_written(params: Params) -> dict[str, Any]:
    """Return the parameters as they are kept and shown: a text where it says more than its value, such as 1.10."""
    text = {name: text for name, text in params._written.items() if spelled(params[name]) != text}
    return {**params, **text}


class Parser(argparse.ArgumentParser):
    """Reads a command line; a mistake in it is a JobError."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.register("type", bool, truth)  # bool("false") is True
        for name, text in _OWN.items():
            self.add_argument(f"--{name}", help=text)

    def error(self, message: str) -> NoReturn:
        """Raise the mistake."""
        raise JobError(f"The command line: {message}.")

    def answer_help(self, argv: Sequence[str]) -> None:
        """Print what is declared and leave, where that is asked for; unless the script means something else by it.

        Raises:
            SystemExit: with 0, after the text.
        """
        if not {"-h", "--help"}.isdisjoint(argv) and not {"-h", "--help"} & self._option_string_actions.keys():
            self.print_help()
            self.exit()

    def defaults(self) -> dict[str, Any]:
        """Return what the declared parameters are where they are not given."""
        return {
            action.dest: action.default
            for action in self._actions
            if action.dest not in _OWN and action.default is not argparse.SUPPRESS
        }

    def declared(self) -> dict[str, argparse.Action]:
        """Return the declared parameters by name."""
        return {action.dest: action for action in self._actions}

    def given(self, argv: Sequence[str]) -> set[str]:
        """Return the names of the declared parameters that a command line gives, in whatever spelling."""
        kept = [(action, action.default, action.required) for action in self._actions]
        try:
            for action in self._actions:
                action.default, action.required = argparse.SUPPRESS, False
            return set(vars(self.parse_known_args(argv)[0]))
        finally:
            for action, action.default, action.required in kept:
                pass

    def declared_words(self, argv: Sequence[str]) -> tuple[list[str], dict[str, bool]]:
        """Return a command line in the declared spelling, and the switches that it gives as `--fp16=true`."""
        by_name = {  # what a parameter is kept as, which is what "start again" writes
            f"--{action.dest}": action.option_strings[0]
            for action in self._actions
            if action.option_strings and action.nargs != 0 and not isinstance(action, _SWITCHES)
        }
        options = {key(name): option for name, option in by_name.items()}
        options |= {key(option): option for option in self._option_string_actions}
        words, switches = [], {}
        for word in argv:
            name, equals, value = word.partition("=")
            if name.startswith("--") and name not in self._option_string_actions:
                name = options.get(key(name), name)
            action = self._option_string_actions.get(name)
            if equals and isinstance(action, _SWITCHES):
                switches[action.dest] = self._switched(action, name, value)
            else:
                words.append(name + equals + value)
        return words, switches

    def by_declared_names(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return values of a file or of the queue by the names of the parameters that their options declare.

        Raises:
            JobError: a parameter is given twice.
        """
        declared = self.declared()
        options = {key(option[2:]): option for option in self._option_string_actions if option.startswith("--")}
        found: dict[str, Any] = {}
        for name, value in values.items():
            action = self._option_string_actions[options[name]] if name in options and name not in declared else None
            if isinstance(action, _SWITCHES):
                value = self._switched(action, options[name], spelled(value))
            name = name if action is None else action.dest
            if name in found:
                raise JobError(f"{where} gives '{name}' twice: by its name and by that of its option.")
            found[name] = value
        return found

    def _switched(self, action: argparse.Action, name: str, value: str) -> bool:
        """Return what a switch that is given with a value makes of its parameter."""
        on = action.const if isinstance(action.const, bool) else not name.startswith("--no-")
        try:
            return on if truth(value) else not on
        except ValueError as error:
            self.error(f"argument {name}: {error}")


def read(parser: Parser, argv: Sequence[str], queued: Path | None) -> Params:
    """Return the parameters: of the command line, else of its input file, else of the queue, else the defaults.

    Args:
        parser: of the declared ones, with their types and defaults; others are what they are guessed to be.
        argv: the command line.
        queued: the file of the queue.

    Raises:
        JobError: a file that is none, or a declared parameter that is missing or of another type.
    """
    own = own_options(argv)
    file = own["input_file"]
    held = read_file(Path(file)) if file else {}
    waiting = json.loads(queued.read_text(encoding="utf-8")) if queued is not None and queued.is_file() else {}
    sources = [(waiting, "the queue"), *([(held, f"--input_file '{file}'")] if file else [])]
    values: dict[str, Any] = {}
    for source, where in sources:
        values |= parser.by_declared_names(named(source, where), where)
    declared, (argv, switches) = parser.declared(), parser.declared_words(argv)
    for name in values.keys() & declared.keys():
        values[name] = typed(parser, declared[name], values[name])
        declared[name].required = False
    known, rest = parser.parse_known_args(argv)
    given = parser.given(argv)
    for name, value in vars(known).items():
        if name in given or (name not in values and value is not None):
            values[name] = value
    values |= switches
    written: dict[str, str] = {}
    for name, text in undeclared(rest).items():
        is_kept = name in values and not isinstance(values[name], str) and spelled(values[name]) == text
        if isinstance(text, str) and not is_kept:  # the queue, or the file, may hold a list that this text says
            written[name] = text
            values[name] = guessed(text)
        elif not isinstance(text, str):
            values[name] = text
    given_here = {*named(waiting, "the queue"), *undeclared(rest)} - declared.keys() - {*_OWN, _OUTPUT}
    return Params({name: value for name, value in values.items() if name not in _OWN}, written, own, held, given_here)


def named(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values by the names that parameters have.

    Raises:
        JobError: two of them are one.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if key(str(name)) in found:
            raise JobError(f"{where} gives '{key(str(name))}' twice: '-' and '_' are one in a parameter's name.")
        found[key(str(name))] = value
    return found


def typed(parser: Parser, action: argparse.Action, value: Any) -> Any:
    """Return a value of a file or of the queue as the declared type; what has a type keeps it where nothing is lost.

    Raises:
        JobError: it is none of that type, or of the choices.
    """
    several = action.nargs in ("*", "+") or isinstance(action.nargs, int) or isinstance(action, _SEVERAL)
    if isinstance(value, list) and several and action.nargs != 0:
        return [typed_one(parser, action, one) for one in value]
    return typed_one(parser, action, value)


def typed_one(parser: Parser, action: argparse.Action, value: Any) -> Any:
    """Return one value as the declared type; see `typed`."""
    kind = action.type
    try:
        if isinstance(action, _SWITCHES) and isinstance(value, str):
            return truth(value)
        if kind is not None and isinstance(value, str):
            value = parser._get_value(action, value)
        elif kind is not None and value is not None and not _has_type(value, kind):
            value = _brought(parser, action, value)
        parser._check_value(action, value)
    except (argparse.ArgumentError, ValueError) as error:
        raise JobError(f"The parameter '{action.dest}' is {value!r}: {getattr(error, 'message', error)}.") from None
    return value


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value needs no conversion; of a function that reads text nobody knows what it makes."""
    if not isinstance(kind, type):
        return isinstance(value, bool | list | dict)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _brought(parser: Parser, action: argparse.Action, value: Any) -> Any:
    """Return a number as another type that holds it."""
    if isinstance(value, list | dict) or (isinstance(value, bool) and action.type is not str):
        raise argparse.ArgumentError(action, f"a value of the type {getattr(action.type, '__name__', '')} is expected")
    is_whole = action.type is int and isinstance(value, float) and value.is_integer()
    return parser._get_value(action, str(int(value)) if is_whole else spelled(value))


def own_options(argv: Sequence[str]) -> dict[str, str | None]:
    """Return input_file of a command line, and job_id and experiment_name of it, else of that file."""
    parser = Parser()
    found = parser.parse_known_args(parser.declared_words(argv)[0])[0]
    own: dict[str, str | None] = {name: getattr(found, name) for name in _OWN}
    if own["input_file"]:
        held = {key(str(name)): value for name, value in read_file(Path(own["input_file"])).items()}
        own |= {name: str(held[name]) for name in _OWN if own[name] is None and held.get(name) is not None}
    return own


def read_file(path: Path) -> dict[str, Any]:
    """Return the parameters of a JSON or YAML file; where it has a section `config`, that one.

    Raises:
        JobError: there is no such file, or it holds no names and values.
    """
    if not path.is_file():
        raise JobError(f"--input_file: there is no file '{path}' (looked for from {Path.cwd()}).")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix in (".yaml", ".yml"):
        content = _yaml(text, path)
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


def _yaml(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's own types, except that 1e-5 is a number too."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+][0-9]+$"), list("-+0123456789")
    )
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise JobError(f"--input_file '{path}' is no YAML: {error}") from None


def undeclared(rest: Sequence[str]) -> dict[str, str | bool]:
    """Return `--name value` and `--name=value` of a command line as texts; a name without a value is true."""
    found: dict[str, str | bool] = {}
    parts = list(rest)
    while parts:
        part = parts.pop(0)
        if not part.startswith("--") or len(part) == 2:
            continue
        name, equals, value = part[2:].partition("=")
        if not equals and parts and not parts[0].startswith("--"):
            value, equals = parts.pop(0), "="
        found[key(name)] = value if equals else True
    return found
