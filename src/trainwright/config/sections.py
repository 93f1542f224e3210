"""Sections of a configuration as plain mappings, whatever they are given as; the tasks' own files of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.errors import ConfigError, did_you_mean


def plain(section: Any, name: str) -> dict[str, Any]:
    """Return a section as a dict: of a DictConfig, with its references resolved; of a mapping.

    Raises:
        ConfigError: it is neither.
    """
    if type(section).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf

        section = OmegaConf.to_container(section, resolve=True)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name} is {type(section).__name__}; a section with keys is expected.")
    return {str(key): value for key, value in section.items()}


def check_keys(section: Mapping[str, Any], known: Collection[str], name: str) -> None:
    """Raise a ConfigError for a key that is not known."""
    for key in section:
        if key not in known:
            shown = f" Known: {', '.join(known)}." if len(known) < 40 else ""
            raise ConfigError(f"{name}: unknown key '{key}'.{did_you_mean(key, known)}{shown}")


def required(section: Mapping[str, Any], keys: Collection[str], name: str) -> None:
    """Raise a ConfigError for keys that are missing."""
    missing = [key for key in keys if section.get(key) is None]
    if missing:
        raise ConfigError(f"{name}: {', '.join(missing)} must be given.")


def command_of(sections: Mapping[str, Any]) -> str:
    """Return the command that trains a file with such sections; empty where they do not tell."""
    if "policy" in sections:
        return "imitation train"
    if "training" in sections:
        return "train"
    data = sections.get("data")
    is_language = isinstance(data, Mapping) and "train" in data  # and `train` is a slip
    return "algebra train" if "train" in sections and not is_language else ""


def check_command(sections: Mapping[str, Any], path: Path, command: str) -> None:
    """Raise a ConfigError for a file that is one of another command."""
    other = command_of(sections)
    if other not in ("", command):
        raise ConfigError(f"{path} is a file for another command: trainwright {other} {path}")


def read_sections(path: Path, overrides: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    """Return the sections of a YAML file with dotted overrides, references resolved.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it has other sections.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise ConfigError(f"There is no configuration '{path}' (looked for from {Path.cwd()}).")
    wrong = [one for one in overrides if "=" not in one]
    if wrong:
        raise ConfigError(f"'{wrong[0]}' is no override; write SECTION.KEY=VALUE.")
    try:
        read = OmegaConf.load(path)
        if not isinstance(read, DictConfig):
            raise ConfigError(f"{path}: a list; sections are expected: {', '.join(known)}.")
        own: Any = OmegaConf.to_container(read, resolve=False)
        check_command(own, path, "imitation train" if "policy" in known else "algebra train")
        sections = plain(OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides))), str(path))
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: an anchor (&) holds itself, or it is nested too deeply.") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    check_keys(sections, known, str(path))
    for name, section in sections.items():
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(f"{path}: {name} is {section!r}; a section with keys is expected.")
    return sections
