"""What the table of `uses` says of a configuration, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any

from trainwright.config import methods
from trainwright.config.keys import uses
from trainwright.config.keys.lines import Fate, Line
from trainwright.config.methods import Method
from trainwright.config.reading.writing import plain
from trainwright.config.schema import DatasetParams, TrainingConfig

Found = tuple[str, Line]  # the dotted name of a value, and what becomes of it


def every_key() -> dict[str, Any]:
    """Return every key of a file with its default: those of a dataset as `data.train.datasets.*.name`."""
    found = {key: default for _, key, _, default in _values(TrainingConfig(), "", "")}
    for split in ("data.train", "data.validation"):
        found |= {f"{split}.datasets.*.{name}": default for name, default in _defaults(DatasetParams).items()}
    return found | {f"{uses.KWARGS}.{name}": default for name, default in _usual_options().items()}


def lines_of(key: str, trainer: str) -> list[Line]:
    """Return what a trainer does with a key in place of using it; nothing where it uses it."""
    if trainer in uses.OWN_MODELS:
        if key not in uses.READ_BY_OWN:
            return [uses.OWN]
        trainer = "SFT"
    return _by_key(methods.everyone())[trainer].get(key, [])


@cache
def _by_key(known: tuple[Method, ...]) -> dict[str, dict[str, list[Line]]]:
    return {one.name: _lines(one) for one in known}


def _lines(method: Method) -> dict[str, list[Line]]:
    """Return the lines about a method by key: its own, those of its groups, and that it has not others' settings."""
    found: dict[str, list[Line]] = {}
    for line in method.lines:
        for key in line.keys:
            found.setdefault(key, []).append(line)
    for line in uses.LINES:
        for key in line.keys if method.groups & set(line.trainers) else ():
            if key not in method.takes:
                found.setdefault(key, []).append(line)
    kinds = methods.all_options()
    for other in kinds.values():
        line = _foreign(kinds[method.options], other)
        for key in line.keys:
            told = any(one.is_told for one in found.get(key, []))
            found.setdefault(key, []).extend([] if told else [line])
    return found


@cache
def _foreign(own: Method, other: Method) -> Line:
    """Return the line about settings of another kind of training, for all methods of one."""
    kinds: tuple[Any, Any] = (own.options, other.options)
    mine, theirs = map(_defaults, kinds)
    names = [f"{uses.KWARGS}.{name}" for name in theirs if name not in mine]
    return Line(tuple(names), (), Fate.REFUSED, f"it is a setting of {other.title}", is_told=True)


def trainers_of(config: TrainingConfig) -> tuple[str, ...]:
    """Return who may train a configuration, which the data decide where it does not say; nobody of those that are not
    here."""
    if config.model.model_name in uses.OWN_MODELS:
        return (str(config.model.model_name),)
    return tuple(one.name for one in methods.candidates(config.training.trainer_type))


def findings(config: TrainingConfig, trainers: Sequence[str] | None = None) -> Iterator[Found]:
    """Yield what is given and not used, whoever of the trainers it will be (by default those of the configuration)."""
    trainers = trainers_of(config) if trainers is None else trainers
    for path, key, value, default in _values(config, "", ""):
        lines = [] if value == default else [_line(key, one, value, config) for one in trainers]
        found = [line for line in lines if line is not None]
        if found and len(found) == len(lines) and len({line.fate for line in found}) == 1:
            yield from [(path, line) for line in found if not line.is_told][:1]


def _line(key: str, trainer: str, value: Any, config: TrainingConfig) -> Line | None:
    """Return what a trainer does with a value that is given, in place of using it; None where it uses it."""
    lines = (line for line in lines_of(key, trainer) if value not in line.fine)
    return next((line for line in lines if line.used_if is None or not line.used_if(config)), None)


def given(config: TrainingConfig) -> dict[str, Any]:
    """Return everything that is not as it is by default, by dotted name, as a file would hold it."""
    found = ((path, value) for path, _, value, default in _values(config, "", "") if value != default)
    return {path: plain(asdict(value) if is_dataclass(value) else value) for path, value in found}  # type: ignore[arg-type]  # no class


def usual(config: TrainingConfig) -> dict[str, Any]:
    """Return what everything that a configuration may hold is by default, by dotted name, as a file would hold it."""
    found = {path: default for path, _, _, default in _values(config, "", "")}
    return {path: plain(asdict(one) if is_dataclass(one) else one) for path, one in found.items()}  # type: ignore[arg-type]  # no class


def refusal(path: str, line: Line) -> str:
    """Return what is wrong with a value that a line refuses."""
    return f"{path} needs {line.why}" if line.used_if is not None else f"{path}: {line.why}"


def without_effect(found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """Yield for each reason the first of the values that have no effect for it, and a sentence on all of them."""
    for line in dict.fromkeys(line for _, line in found if line.fate is Fate.NO_EFFECT):
        paths = [path for path, own in found if own is line]
        has, reason = "has" if len(paths) == 1 else "have", " without" if line.used_if is not None else ":"
        yield paths[0], f"{', '.join(paths)} {has} no effect{reason} {line.why}."


def _values(section: Any, path: str, key: str) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (dotted name, key of the table, value, default) of everything that a section holds."""
    kind: Any = type(section)
    for name, default in _defaults(kind).items():
        value, own = getattr(section, name), f"{key}.{name}".lstrip(".")
        dotted = f"{path}.{name}".lstrip(".")
        if own == "training.trainer_kwargs":
            yield from _options(value, dotted)
        elif own.endswith(".datasets"):
            for number, one in enumerate(value):
                yield from _values(one, f"{dotted}.{number}", f"{own}.*")
        elif is_dataclass(value) and own not in uses.WHOLE and is_dataclass(default):
            yield from _values(value, dotted, own)
        else:
            yield dotted, own, value, default


def _options(given: dict[str, Any], path: str) -> Iterator[tuple[str, str, Any, Any]]:
    usual = _usual_options()
    for name, value in given.items():
        yield f"{path}.{name}", f"{path}.{name}", value, usual.get(name)


def _usual_options() -> dict[str, Any]:
    """Return everything that trainer_kwargs may hold, with its default; of what has several, the first method's."""
    found: dict[str, Any] = {}
    kinds: list[Any] = list(methods.all_options())
    for kind in reversed(kinds):
        found |= _defaults(kind)
    return found


@cache
def _defaults(kind: Any) -> dict[str, Any]:
    made = ((f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in fields(kind))
    return dict(made)
