"""Reading a run's file: YAML and dotted overrides, checked before anything is imported or made.

`load` reads a file: names and types. `check` looks at what they mean. Each reports all it finds at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from trainwright.args import aliases
from trainwright.args.training import faults_of
from trainwright.config import rules
from trainwright.config.convert import convert
from trainwright.config.interpolate import interpolate
from trainwright.config.options import RENAMED, DPOOptions, SFTOptions
from trainwright.config.params import TWINS, UPSTREAM, TrainerType, TrainingParams
from trainwright.config.schema import SECTIONS, TrainingConfig
from trainwright.config.translate import ARGUMENTS, argument_values
from trainwright.config.tree import Place, Problems, Tree, apply, get, place_of, read_file
from trainwright.errors import did_you_mean

RUN_CONFIG = "run.yaml"
_DPO_TYPES = (TrainerType.DPO, TrainerType.TRL_DPO)
_REST = (TrainerType.TRL_KTO, TrainerType.TRL_GRPO, TrainerType.TRL_GKD, TrainerType.TRL_GOLD, TrainerType.VERL_GRPO)
_SAME_LENGTH = ("model.model_max_length", "training.trainer_kwargs.max_length")
_SAME_PACKING = ("data.train.pack", "training.trainer_kwargs.packing")


@dataclass
class Loaded:
    """A configuration, and where its values stand."""

    config: TrainingConfig
    tree: Tree


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Return the run that a file describes, with overrides such as `training.max_steps=100` on top.

    Raises:
        ConfigError: the file cannot be read, or holds keys or types that a run has not; all of them.
    """
    loaded, problems = _read(path, overrides)
    problems.raise_if_any()
    return loaded


def load_checked(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Return the run that a file describes, after looking at everything that can be known before a model is loaded.

    Raises:
        ConfigError: what cannot be read or cannot work, all of it.
    """
    loaded, problems = _read(path, overrides)
    _check(loaded, problems)
    problems.raise_if_any()
    return loaded


def check(config: TrainingConfig) -> None:
    """Look at a configuration made in Python as `load_checked` looks at a file.

    Raises:
        ConfigError: what cannot work, all of it.
    """
    problems = Problems()
    _check(Loaded(config, Tree({}, Place(""))), problems)
    problems.raise_if_any()


def _read(path: Path, overrides: Sequence[str]) -> tuple[Loaded, Problems]:
    tree = read_file(path)
    apply(tree, overrides)
    problems = Problems()
    modernize(tree, problems)
    interpolate(tree, SECTIONS, _plain(asdict(TrainingConfig())), problems)
    config = convert(tree, TrainingConfig, "", problems)
    check_kwargs(tree, config.training, problems)
    for warning in problems.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    return Loaded(config, tree), problems


def _check(loaded: Loaded, problems: Problems) -> None:
    config, tree = loaded.config, loaded.tree
    found = list(rules.faults(config))
    kind = config.training.trainer_type
    if not problems.errors and kind not in _REST:
        by_kind = [_option_faults(config, one) for one in ([SFTOptions, DPOOptions] if kind is None else [_kind(kind)])]
        found += by_kind[0] if all(by_kind) else []  # without a trainer_type, the data decides later
    for path, message, hint in found:
        problems.add(place_of(tree, path), message, hint, len(path.split(".")[-1]))
    for one, other in (_SAME_LENGTH, _SAME_PACKING):
        first, second = (node.value if (node := get(tree, name)) else None for name in (one, other))
        if first is not None and second is not None and first != second:
            _twice(problems, tree, one, other)
    for sentence in faults_of(argument_values(config.training)):
        name = (re.match(r"\w+", sentence) or [""])[0]
        given = _given_name(tree, name)
        sentence = sentence.replace(f"{name}=", f"{given.split('.')[-1]}=", 1).rstrip(".")
        problems.add(place_of(tree, given), sentence, "", len(given.split(".")[-1]))


def _kind(trainer: TrainerType) -> Any:
    return DPOOptions if trainer in _DPO_TYPES else SFTOptions


def _option_faults(config: TrainingConfig, kind: Any) -> list[rules.Fault]:
    chosen = kind(**options_of(config, kind))
    found = list(rules.dpo_faults(chosen) if kind is DPOOptions else rules.sft_faults(chosen))
    return found if config.training.trainer_type in UPSTREAM else [*found, *rules.own_faults(chosen)]


def checked_options(config: TrainingConfig, kind: Any) -> Any:
    """Return the settings of the kind of training that the data turned out to be for.

    Raises:
        ConfigError: they hold keys of another kind, or cannot work.
    """
    known = {*ARGUMENTS, *(f.name for f in fields(kind))}
    problems, nowhere = Problems(), Place("")
    for name in config.training.trainer_kwargs:
        if name not in known:
            what = "preferences" if kind is DPOOptions else "supervised fine-tuning"
            problems.add(nowhere, f"training.trainer_kwargs.{name} is no setting of {what}", "check the data's columns")
    for _, message, hint in _option_faults(config, kind):
        problems.add(nowhere, message, hint)
    problems.raise_if_any()
    return kind(**options_of(config, kind))


def options_of(config: TrainingConfig, kind: Any) -> dict[str, Any]:
    """Return the settings of one kind of training: trainer_kwargs, and the other sections' names for them."""
    known = {f.name for f in fields(kind)}
    values = {name: value for name, value in config.training.trainer_kwargs.items() if name in known}
    if config.model.model_max_length is not None:
        values.setdefault("max_length", config.model.model_max_length)
    if config.data.train.pack is not None and "packing" in known:
        values.setdefault("packing", config.data.train.pack)
    if config.data.train.target_col is not None and "dataset_text_field" in known:
        values.setdefault("dataset_text_field", config.data.train.target_col)
    if config.data.train.collator_name == "text_completions_only_with_padding" and kind is SFTOptions:
        values.setdefault("assistant_only_loss", True)
    return values


def modernize(tree: Tree, problems: Problems) -> None:
    """Replace names of the past by today's, with a warning; note where two names of one thing are given."""
    kwargs, training = get(tree, "training.trainer_kwargs"), get(tree, "training")
    if kwargs is not None and isinstance(kwargs.value, dict):
        _rename(tree, kwargs.value, "training.trainer_kwargs", RENAMED, problems)
    if training is not None and isinstance(training.value, dict):
        params = {f.name for f in fields(TrainingParams)}
        old = {name: new or None for name, new in aliases.RENAMED.items() if name not in params}
        _rename(tree, training.value, "training", old, problems)
        for one, other in TWINS:
            if one in training.value and other in training.value:
                _twice(problems, tree, f"training.{one}", f"training.{other}")


def _rename(
    tree: Tree, section: dict[str, Tree], path: str, renamed: dict[str, str | None], problems: Problems
) -> None:
    for old in [name for name in section if name in renamed]:
        new, place = renamed[old], section[old].key or section[old].place
        where = f"{place.source}:{place.line}" if place.line else place.source
        if new is not None and new in section:
            _twice(problems, tree, f"{path}.{old}", f"{path}.{new}")
        what = f"use {path}.{new}" if new else "it is no longer needed, and has no effect"
        problems.warnings.append(f"{where}: {path}.{old} is an old name; {what}.")
        value = section.pop(old)
        if new is not None:
            section.setdefault(new, value)


def _twice(problems: Problems, tree: Tree, one: str, other: str) -> None:
    first, second = place_of(tree, one), place_of(tree, other)
    at = f"line {first.line}" if first.line else first.source
    both = f"{one} ({at}) and {other} are two names of one thing"
    problems.add(second, both, "give only one", len(other.split(".")[-1]))


def check_kwargs(tree: Tree, params: TrainingParams, problems: Problems) -> None:
    """Check names and types of trainer_kwargs: arguments, and the settings of the kind of training."""
    given = get(tree, "training.trainer_kwargs")
    if given is None or not isinstance(given.value, dict) or params.trainer_type in _REST:
        return
    kinds = [SFTOptions, DPOOptions] if params.trainer_type is None else [_kind(params.trainer_type)]
    known = {f.name: kind for kind in kinds for f in fields(kind)}
    for name, value in given.value.items():
        path = f"training.trainer_kwargs.{name}"
        if name not in known and name not in ARGUMENTS:
            near = did_you_mean(name, [*known, *ARGUMENTS]).strip()
            problems.add(value.key or value.place, f"unknown key {path}", near, len(name))
        else:
            one = Tree({name: value}, value.place, value.key)
            found = convert(one, known.get(name, TrainingParams), "training.trainer_kwargs", problems)
            params.trainer_kwargs[name] = getattr(found, name)


def _given_name(tree: Tree, name: str) -> str:
    """Return the dotted name under which the file gives an argument."""
    twins = [one for one, other in TWINS if other == name]
    names = [f"training.{name}", *(f"training.{one}" for one in twins), f"training.trainer_kwargs.{name}"]
    return next((path for path in names if get(tree, path) is not None), names[0])


def as_yaml(config: TrainingConfig) -> dict[str, Any]:
    """Return a configuration as a file would hold it: each thing under one name, no section at its defaults."""
    whole, usual = _plain(asdict(config)), _plain(asdict(TrainingConfig()))
    for name in ("fsdp", "deepspeed", "peft"):
        if whole[name] == usual[name]:
            del whole[name]
    for name in ("grpo", "gkd", "gold", "profiler", "telemetry"):
        if whole["training"][name] == usual["training"][name]:
            del whole["training"][name]
    for one, other in TWINS:
        unused = one if whole["training"].get(one) == usual["training"][one] else other
        whole["training"].pop(unused, None)
    return whole


def keep(config: TrainingConfig, folder: Path) -> None:
    """Write a run's whole description into its folder, for `train --resume` and commands that look at the run later."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(as_yaml(config), sort_keys=False, allow_unicode=True)
    (folder / RUN_CONFIG).write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.name if isinstance(value, Enum) else value
