"""The card of a model that is given on: what it is made of and from, how it does, and the command that made it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.config.keys import fates
from trainwright.config.schema import DatasetParams, TrainingConfig
from trainwright.saving.model_card import yaml_lines
from trainwright.state import TrainerState
from trainwright.trained.folders import Trained
from trainwright.trained.measuring.results import kept_results

ABOUT = "run.json"  # what a run's folder tells of every beginning of it
_SPEED = ("runtime", "samples_per_second", "steps_per_second")
_OF_HERE = ("training.output_dir", "training.logging_dir", "training.resume_from_checkpoint", "training.run_name")
_PATH = re.compile(r"(?<![\w.:])~?/(?:[^\s/'\"]+/)*([^\s/'\"]+)")  # in a command; its last part stays

Shown = Callable[[Mapping[str, Any]], dict[str, Any]]


def card(trained: Trained, name: str, shown: Shown = dict, adapter: bool = False) -> str:
    """Return the text of README.md: the header that the Hugging Face hub reads, data, results, configuration, command.

    What is only of this machine, such as the folders that data lie in, is not in it.

    Args:
        trained: the model.
        name: its title.
        shown: hides values of the configuration that are secret.
        adapter: whether the files are those of an adapter, which is loaded onto its base.
    """
    config, about = trained.config, beginnings(trained.run)
    origin = origin_of(trained)
    header = {
        "library_name": "peft" if adapter else "transformers",
        "base_model": origin if origin and not Path(origin).exists() else None,
        "tags": ["trainwright", *(["lora"] if trained.is_adapter else [])],
        "datasets": [one for one in hub_names(config) if one],
    }
    lines = ["---", *yaml_lines(header), "---", "", f"# {name}", ""]
    lines += (
        [
            f"Made from {origin if not Path(origin).exists() else Path(origin).name}."
            if origin
            else "Made from random weights.",
            "",
        ]
        if config
        else []
    )
    lines += _section("Data", data_table(config))
    lines += _section("Results", results_table(trained))
    lines += _section("Configuration", _configuration(config, shown))
    lines += _section("Command", ["```bash", _PATH.sub(r"\1", about[-1]["command"]), "```"] if about else [])
    versions = about[-1].get("versions", {}) if about else {}
    lines += _section("Versions", [f"- {package} {version}" for package, version in versions.items()])
    return "\n".join([*lines, "## Use", "", *_use(name, adapter)]) + "\n"


def beginnings(run: Path) -> list[dict[str, Any]]:
    """Return what a run's folder tells of every beginning of it: command, versions; nothing where it was a script's."""
    try:
        found = json.loads((run / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, dict) and "command" in one] if isinstance(found, list) else []


def origin_of(trained: Trained) -> str | None:
    """Return the model that one was made from; None for random weights, and where nothing tells."""
    if trained.config is None:
        return trained.base
    return trained.config.model.model_name if trained.config.model.load_pretrained_weights else None


def hub_names(config: TrainingConfig | None) -> list[str]:
    """Return the names on the hub of the data that a model was trained on."""
    return [_name(one) for one in _datasets(config, "train") if "/" in _name(one) and not _is_here(one)]


def data_table(config: TrainingConfig | None) -> list[str]:
    """Return a row for every dataset: what it is called, which part of it, and what for."""
    rows = [
        f"| {_last(_name(one)) if _is_here(one) else _name(one)} | {one.split} | {use} |"
        for use, split in (("training", "train"), ("validation", "validation"))
        for one in _datasets(config, split)
    ]
    return ["| data | split | for |", "|---|---|---|", *rows] if rows else []


def results_table(trained: Trained) -> list[str]:
    """Return a row for the first and last value of every metric of the training, and for those of later evaluations."""
    rows = [f"| {name} | {value} | {where} |" for name, value, where in [*_logged(trained), *_measured(trained.run)]]
    return ["| metric | value | where |", "|---|---|---|", *rows] if rows else []


def _logged(trained: Trained) -> list[tuple[str, str, str]]:
    own = trained.folder / layout.STATE
    states = [own] if own.exists() else [one / layout.STATE for one in layout.checkpoints(trained.run)[-1:]]
    history = TrainerState.load_from_json(states[0]).log_history if states and states[0].exists() else []
    found: dict[str, tuple[float, int]] = {}
    for entry in history:
        for name, value in entry.items():
            is_number = isinstance(value, int | float) and isfinite(value)
            if is_number and (name == "loss" or (name.startswith("eval_") and not name.endswith(_SPEED))):
                found[name] = (value, entry["step"])
    return [(name, f"{value:.4g}", f"training, step {step}") for name, (value, step) in found.items()]


def _measured(run: Path) -> list[tuple[str, str, str]]:
    return [
        (name, f"{value:.4g}", f"{Path(one['model']).name} on {_last(one['data'])}, {one['rows']} rows")
        for one in kept_results(run)
        for name, value in one["metrics"].items()
    ]


def _configuration(config: TrainingConfig | None, shown: Shown) -> list[str]:
    """Return what of a configuration is not the default, as lines of YAML by dotted name."""
    if config is None:
        return []
    given = {name: value for name, value in fates.given(config).items() if name not in _OF_HERE}
    plain = {name: _last(value) if _is_path(value) else value for name, value in shown(given).items()}
    return ["```yaml", *yaml_lines(plain), "```"]


def _use(name: str, adapter: bool) -> list[str]:
    package, kind = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    code = [f"from {package} import {kind}", "", f'model = {kind}.from_pretrained("{name}")']
    return ["```bash", f"trainwright chat {name}", "```", "", "```python", *code, "```"]


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def _datasets(config: TrainingConfig | None, split: str) -> list[DatasetParams]:
    return getattr(config.data, split).datasets if config is not None else []


def _name(one: DatasetParams) -> str:
    return str(one.dataset_path or one.dataset_name)


def _is_here(one: DatasetParams) -> bool:
    return one.dataset_path is not None or _is_path(one.dataset_name)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", "./", "../")))


def _last(name: str | None) -> str:
    """Return the last part of a path, and another name as it is."""
    return Path(name).name if name and _is_path(name) else str(name)
