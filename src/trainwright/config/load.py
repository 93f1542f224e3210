"""Reading a run's file: YAML and dotted overrides, checked against the schema before anything is imported or made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainwright.args.training import TrainingArguments
from trainwright.config.schema import RunConfig
from trainwright.errors import ConfigError, did_you_mean

RUN_CONFIG = "run.yaml"


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run that a file describes, with overrides such as `training.max_steps=100` on top.

    Raises:
        ConfigError: the file cannot be read, or holds a key or value that the schema does not.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file '{path}'; give the path of a run's YAML file.")
    wrong = [override for override in overrides if "=" not in override]
    if wrong:
        raise ConfigError(f"'{wrong[0]}' is no override; write key=value, such as training.max_steps=100.")
    try:
        given = OmegaConf.load(path)
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), given)
        for override in overrides:
            key, _, value = override.partition("=")
            parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
            OmegaConf.update(merged, key, cast(dict, parsed)["value"], merge=True)
        check_training_keys(merged.training, path)
        return cast(RunConfig, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None


def keep(config: RunConfig, folder: Path) -> None:
    """Write a run's description into its folder, for commands that look at the run later."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), folder / RUN_CONFIG)


def check_training_keys(training: Iterable[Any], path: Path) -> None:
    """Raise a ConfigError for a key under `training` that is no argument."""
    known = [f.name for f in fields(TrainingArguments)]
    for name in training:
        if name not in known:
            raise ConfigError(f"{path}: unknown key training.{name}.{did_you_mean(name, known)}")
