"""Reading a run's file: YAML and dotted overrides, checked before anything is imported or made.

`load` reads a file: names and types. `check` looks at what they mean. Each reports all it finds at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trainwright.args.training import faults_of
from trainwright.config import methods
from trainwright.config.keys import fates
from trainwright.config.keys.lines import Fate
from trainwright.config.methods import Fault, Method
from trainwright.config.options import SFTOptions
from trainwright.config.params import ARGUMENTS, TrainingParams
from trainwright.config.reading import validation
from trainwright.config.reading.aliases import ALIASES, given_elsewhere, modernize
from trainwright.config.reading.convert import convert
from trainwright.config.reading.interpolate import interpolate
from trainwright.config.reading.settled import settled
from trainwright.config.reading.translate import argument_values, sharding_name
from trainwright.config.reading.tree import Diagnostics, Place, Tree, apply, get, place_of, put, read_file, tree_of
from trainwright.config.reading.tree import plain as plain_tree
from trainwright.config.reading.writing import plain
from trainwright.config.schema import SECTIONS, TrainingConfig, TrainTarget
from trainwright.config.sections import check_command
from trainwright.data.sources import registered
from trainwright.errors import did_you_mean


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
    problems.settle()
    return loaded


def load_checked(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Return the run that a file describes, after looking at everything that can be known before a model is loaded.

    Raises:
        ConfigError: what cannot be read or cannot work, all of it.
    """
    loaded, problems = _read(path, overrides)
    _check(loaded, problems)
    problems.settle()
    return loaded


def check(config: TrainingConfig) -> None:
    """Look at a configuration made in Python as `load_checked` looks at a file.

    Raises:
        ConfigError: what cannot work, all of it.
    """
    tree, problems = Tree({}, Place("")), Diagnostics()
    settings = {
        f"training.trainer_kwargs.{name}": plain(value) for name, value in config.training.trainer_kwargs.items()
    }
    for path, value in (fates.given(config) | settings).items():  # what is one method's default is not another's
        put(tree, path, tree_of(value))
    modernize(tree, problems)
    check_trainer(tree, config.training, problems)
    check_kwargs(tree, config.training, problems)
    check_datasets(tree, config, problems)
    _check(Loaded(config, tree), problems)
    problems.settle()


def _read(path: Path, overrides: Sequence[str]) -> tuple[Loaded, Diagnostics]:
    tree = read_file(path)
    check_command(plain_tree(tree), path, "train")
    apply(tree, overrides)
    problems = Diagnostics()
    modernize(tree, problems)
    interpolate(tree, SECTIONS, plain(asdict(TrainingConfig())), problems)
    config = convert(tree, TrainingConfig, "", problems)
    check_trainer(tree, config.training, problems)
    check_kwargs(tree, config.training, problems)
    check_datasets(tree, config, problems)
    return Loaded(config, tree), problems


def _check(loaded: Loaded, problems: Diagnostics) -> None:
    config, tree = loaded.config, loaded.tree
    found = list(validation.faults(config))
    able = methods.candidates(config.training.trainer_type)
    if able and not problems.errors:
        by_method = [_option_faults(config, one) for one in able]
        found += by_method[0] if all(by_method) else []  # without a trainer_type, the data decides later
    unused = [one for one in fates.findings(config) if not (one[1].switch and get(tree, one[1].switch))]
    refused = [(path, line) for path, line in unused if line.fate is Fate.REFUSED]
    found += [(path, fates.refusal(path, line), line.instead) for path, line in refused]
    for path, message, hint in found:
        problems.add(place_of(tree, path), message, hint, len(path.split(".")[-1]))
    for path, sentence in fates.without_effect(unused):
        problems.warn(place_of(tree, path), sentence)
    for path, sentence in settled(config):
        problems.warn(place_of(tree, path), sentence)
    given_elsewhere(tree, problems)
    for sentence in faults_of(argument_values(config.training, config.fsdp)):
        sentence = re.sub(r"^fsdp_config: (?=\w+=)", "", sentence) if config.fsdp.enable_fsdp else sentence
        name = (re.match(r"\w+", sentence) or [""])[0]
        of_section = sharding_name(name) if config.fsdp.enable_fsdp else None
        if of_section == "reduce_dtype" and config.fsdp.reduce_dtype is None:
            continue  # it is mixed_precision, which was told
        given = f"fsdp.{of_section}" if of_section else _given_name(tree, name)
        sentence = sentence.replace(f"{name}=", f"{given.split('.')[-1]}=", 1).rstrip(".")
        problems.add(place_of(tree, given), sentence, "", len(given.split(".")[-1]))


def _option_faults(config: TrainingConfig, method: Method) -> list[Fault]:
    kind = method.options
    twice = [
        (f"training.trainer_kwargs.{name}", f"{name} stands in training.{kind.SECTION} too", "give only one")
        for name in of_section(config, kind)
        if name in config.training.trainer_kwargs
    ]
    return twice + list(method.faults(kind(**options_of(config, kind))))


def checked_options(config: TrainingConfig, method: Method) -> Any:
    """Return the settings of the method that the data turned out to be for.

    Raises:
        ConfigError: they hold keys of another one, or cannot work.
    """
    known = {f.name for f in fields(method.options)}
    problems, nowhere = Diagnostics(), Place("")
    for name in config.training.trainer_kwargs:
        if name not in known:
            what = f"training.trainer_kwargs.{name} is no setting of {method.title}"
            problems.add(nowhere, what, "check the data's columns")
    for _, message, hint in _option_faults(config, method):
        problems.add(nowhere, message, hint)
    if config.training.trainer_type != method.name:  # what is decided is checked already
        unused = list(fates.findings(config, (method.name,)))
        for path, line in unused:
            if line.fate is Fate.REFUSED:
                problems.add(nowhere, fates.refusal(path, line), line.instead)
    problems.settle()
    return method.options(**options_of(config, method.options))


def options_of(config: TrainingConfig, kind: Any) -> dict[str, Any]:
    """Return the settings of a kind that a method has: trainer_kwargs, and the other sections' names for them."""
    known = {f.name for f in fields(kind)}
    values = {name: value for name, value in config.training.trainer_kwargs.items() if name in known}
    values = {name: value for name, value in of_section(config, kind).items() if name in known} | values
    data, datasets = config.data.train, config.data.train.datasets
    lengths = [one.dataset_kwargs["seq_length"] for one in datasets if one.dataset_kwargs.get("seq_length")]
    if lengths and "packing" in known:  # one stream of tokens, cut into rows
        values = {"packing": True, "packing_strategy": "wrapped", "max_length": lengths[0], **values}
    if config.model.model_max_length is not None and not lengths:
        values["max_length"] = config.model.model_max_length
    if data.pack is not None and "packing" in known:
        values.setdefault("packing", data.pack)
    if data.target_col is not None and "dataset_text_field" in known:
        values.setdefault("dataset_text_field", data.target_col)
    turns = data.train_target is TrainTarget.ALL_ASSISTANT_TURNS
    turns = turns or any(one.dataset_kwargs.get("assistant_only") for one in datasets)
    turns = turns or data.collator_name == "text_completions_only_with_padding"
    if "assistant_only_loss" in known and turns:
        values.setdefault("assistant_only_loss", True)
    return values


def of_section(config: TrainingConfig, kind: Any) -> dict[str, Any]:
    """Return what `training` holds of a kind of settings, in a section or by itself, but for what it does by
    default."""
    found = {name: value for name in kind.TAKEN if (value := getattr(config.training, name))}
    given = getattr(config.training, kind.SECTION) if kind.SECTION else None
    if given is None:
        return found
    usual = type(given)()
    set_ = {f.name for f in fields(given) if getattr(given, f.name) != getattr(usual, f.name)}
    return found | {name: getattr(given, name) for name in set_}


def text_column_of(config: TrainingConfig) -> str:
    """Return the column of plain text."""
    column: str = options_of(config, SFTOptions).get("dataset_text_field", "text")
    return column


def check_trainer(tree: Tree, params: TrainingParams, problems: Diagnostics) -> None:
    """Check that there is the method that is named; one that is not is left to the data."""
    name, known = params.trainer_type, methods.known()
    if name is not None and name not in known:
        near = did_you_mean(name, known).strip()
        hint = f"{near} known: {', '.join(known)}".strip()
        given = get(tree, "training.trainer_type")
        written = given.value if given is not None else name
        problems.add(place_of(tree, "training.trainer_type"), f"training.trainer_type: {written!r} is not known", hint)
        params.trainer_type = None


def check_kwargs(tree: Tree, params: TrainingParams, problems: Diagnostics) -> None:
    """Check names and types of trainer_kwargs: the settings of the method, or of those that the data decide among."""
    given, able = get(tree, "training.trainer_kwargs"), methods.candidates(params.trainer_type)
    if given is None or not isinstance(given.value, dict) or not able:
        return
    known = {f.name: one.options for one in able for f in fields(one.options)}
    params.trainer_kwargs = {}
    for name, value in given.value.items():
        path = f"training.trainer_kwargs.{name}"
        if name not in known:
            lines = fates.lines_of(path, able[0].name) if len(able) == 1 else []
            refused = next((fates.refusal(path, line) for line in lines if line.is_told), None)
            near = "" if refused else did_you_mean(name, [*known, *ARGUMENTS]).strip()
            problems.add(value.key or value.place, refused or f"unknown key {path}", near, len(name))
        else:
            one = Tree({name: value}, value.place, value.key)
            found = convert(one, known[name], "training.trainer_kwargs", problems)
            params.trainer_kwargs[name] = getattr(found, name)


def check_datasets(tree: Tree, config: TrainingConfig, problems: Diagnostics) -> None:
    """Check names and types of dataset_kwargs of datasets that have a name; say which of them change nothing."""
    for split in ("train", "validation", "test"):
        for number, one in enumerate(getattr(config.data, split).datasets):
            path = f"data.{split}.datasets.{number}.dataset_kwargs"
            entry, given = registered.find(one.dataset_name, one.dataset_path), get(tree, path)
            if entry is None or given is None or not isinstance(given.value, dict):
                continue
            made = convert(given, entry.settings, path, problems)
            one.dataset_kwargs = {name: getattr(made, name) for name in given.value if hasattr(made, name)}
            for name, why, is_refused in registered.unread(entry, one.dataset_kwargs):
                if not is_refused:
                    problems.warn(place_of(tree, f"{path}.{name}"), f"{path}.{name} has no effect: {why}.")


def _given_name(tree: Tree, name: str) -> str:
    """Return the dotted name under which the file gives an argument."""
    twins = [one for one, other in ALIASES if other == name]
    names = [f"training.{name}", *(f"training.{one}" for one in twins)]
    return next((path for path in names if get(tree, path) is not None), names[0])
