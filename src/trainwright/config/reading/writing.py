"""A run's description as a file that reads back as the same run."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from trainwright.config.reading.aliases import ALIASES
from trainwright.config.reading.tree import EXPONENT
from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError

RUN_CONFIG = "run.yaml"
_TWINS = {name for pair in ALIASES for name in pair}


class _Dumper(yaml.SafeDumper):
    """Quotes a text that our reader would take for a number, such as 1e-5, and one with a line break of Unicode."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(one in data for one in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789."))


def as_yaml(config: TrainingConfig) -> dict[str, Any]:
    """Return a configuration as a file would hold it: each thing under one name, no section at its defaults."""
    whole: dict[str, Any] = plain(asdict(config))
    usual = plain(asdict(TrainingConfig()))
    for name in ("fsdp", "deepspeed", "peft"):
        if whole[name] == usual[name]:
            del whole[name]
    training = whole["training"]
    for name in ("grpo", "gkd", "gold", "profiler", "telemetry", *_TWINS):
        if training[name] == usual["training"][name]:
            del training[name]
    return whole


def keep(config: TrainingConfig, folder: Path) -> None:
    """Write a run's whole description into its folder, for `train --resume` and commands that look at the run later.

    Files and folders that are there stand in it with their whole paths, for whoever reads it from elsewhere; a token of
    the hub does not, for others may read it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = with_whole_paths(as_yaml(config))
    whole["training"].pop("hub_token", None)
    text = yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    write_whole(folder / RUN_CONFIG, text)


def write_whole(file: Path, text: str) -> None:
    """Write a text so that the file is there whole or as it was, wherever a kill or a full disk comes.

    Raises:
        ConfigError: it cannot be written.
    """
    part = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ConfigError(f"'{file}' cannot be written: {error.strerror}. It is as it was.") from None


def with_whole_paths(whole: dict[str, Any]) -> dict[str, Any]:
    """Return a file's content, its relative paths of what lies here made absolute, in place."""
    model, kwargs = whole["model"], whole["training"]["trainer_kwargs"]
    names = ["tokenizer_name", "adapter_model", *(["model_name"] if model["load_pretrained_weights"] else [])]
    for section, keys in ((model, names), (kwargs, ["ref_model"]), (whole["training"], ["resume_from_checkpoint"])):
        section |= {key: _whole(section[key]) for key in keys if key in section}
    for split in whole["data"].values():
        for one in split["datasets"]:
            key = "dataset_name" if one["dataset_path"] is None else "dataset_path"
            one[key] = _whole(one[key])
    return whole


def _whole(value: Any) -> Any:
    """Return a path that is there as a whole one, and every other value as it is."""
    is_there = isinstance(value, str) and not value.startswith("~") and Path(value).exists()
    return str(Path(value).absolute()) if is_there else value


def by_name(section: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Return the values of nested sections by dotted name."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        found |= by_name(value, f"{start}{name}.") if isinstance(value, dict) else {start + name: value}
    return found


def plain(value: Any) -> Any:
    """Return dicts, lists and scalars for what `asdict` returns: enums by their names."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.name if isinstance(value, Enum) else value
