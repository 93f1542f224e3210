"""What the table of `uses` says of a configuration, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any

from trainwright.config import uses
from trainwright.config.options import DPOOptions, SFTOptions
from trainwright.config.params import TrainerType
from trainwright.config.schema import DatasetParams, TrainingConfig
from trainwright.config.uses import Fate, Line
from trainwright.config.writing import plain

Found = tuple[str, Line]  # the dotted name of a value, and what becomes of it


@cache
def every_key() -> dict[str, Any]:
    """Return every key of a file with its default: those of a dataset as `data.train.datasets.*.name`."""
    found = {key: default for _, key, _, default in _values(TrainingConfig(), "", "")}
    for split in ("data.train", "data.validation"):
        found |= {f"{split}.datasets.*.{name}": default for name, default in _defaults(DatasetParams).items()}
    options = {**_defaults(DPOOptions), **_defaults(SFTOptions)}
    return found | {f"training.trainer_kwargs.{name}": default for name, default in options.items()}


def lines_of(key: str, trainer: str) -> list[Line]:
    """Return what a trainer does with a key in place of using it; nothing where it uses it."""
    if trainer in uses.OWN_MODELS:
        if key not in uses.READ_BY_OWN:
            return [uses.OWN]
        trainer = "SFT"
    return [line for line in _by_key().get(key, ()) if trainer in line.trainers]


@cache
def _by_key() -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in uses.LINES:
        for key in line.keys:
            found.setdefault(key, []).append(line)
    return found


def trainers_of(config: TrainingConfig) -> tuple[str, ...]:
    """Return who may train a configuration, which the data decide where it does not say; nobody of those that are not
    here."""
    kind = config.training.trainer_type
    if config.model.model_name in uses.OWN_MODELS:
        return (str(config.model.model_name),)
    if kind is None or kind is TrainerType.OUMI:
        return ("SFT", "DPO") if kind is None else ("SFT", "PRETRAIN", "DPO")
    return (kind.name,) if kind.name in uses.ALL else ()


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
    usual = {**_defaults(DPOOptions), **_defaults(SFTOptions)}
    for name, value in given.items():
        yield f"{path}.{name}", f"{path}.{name}", value, usual.get(name)


@cache
def _defaults(kind: Any) -> dict[str, Any]:
    made = ((f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in fields(kind))
    return dict(made)
