"""The model card: README.md of the output folder, with the header that the Hugging Face hub reads."""

from __future__ import annotations

from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn

from trainwright.args.groups import optimization
from trainwright.args.training import TrainingArguments
from trainwright.models.inspect import base_model, is_adapter, is_pretrained
from trainwright.session.session import Session

CARD = "README.md"
_GROUPS = (
    optimization.Duration, optimization.LearningRate, optimization.OptimizerChoice, optimization.Stability,
    optimization.Precision, optimization.Compute,
)  # fmt: skip
_SPEED = ("runtime", "samples_per_second", "steps_per_second")

Names = str | list[str] | None


def create_model_card(
    session: Session,
    language: Names = None,
    license: str | None = None,
    tags: Names = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: Names = None,
    dataset_tags: Names = None,
    dataset: Names = None,
    dataset_args: Names = None,
) -> None:
    """Write README.md into the output folder: arguments, results and versions; nothing is looked up online.

    What is only of this machine, such as paths and accounts, is not in it.

    Args:
        session: whose run it tells of.
        language: of the data, such as `en`.
        license: of the model.
        tags: further tags.
        model_name: title; the folder's name when not given.
        finetuned_from: the model that this one was made from; by default what its configuration says, if that is no
            folder.
        tasks: such as `text-classification`.
        dataset_tags: names of the data on the hub.
        dataset: names of the data for readers.
        dataset_args: configurations of the data.
    """
    if not session.hooks.is_world_process_zero():
        return
    import torch

    folder = Path(session.args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    name, metrics = model_name or folder.resolve().name, last_metrics(session.state.log_history)
    origin = finetuned_from or base_name(session.model)
    header = {
        "library_name": "peft" if is_adapter(session.model) else "transformers",
        "language": listed(language),
        "license": license,
        "base_model": origin,
        "tags": [*dict.fromkeys([*listed(tags), *listed(getattr(session.model, "model_tags", None)), "trainwright"])],
        "datasets": listed(dataset_tags),
        "model-index": results(
            name, metrics, listed(tasks), listed(dataset_tags), listed(dataset), listed(dataset_args)
        ),
    }
    made_from = f"Made from [{origin}](https://huggingface.co/{origin}). " if origin else ""
    data = f"Trained on {', '.join(listed(dataset) or listed(dataset_tags))}." if dataset or dataset_tags else ""
    lines = ["---", *yaml_lines(header), "---", "", f"# {name}", ""]
    if made_from or data:
        lines += [f"{made_from}{data}".strip(), ""]
    lines += ["## Results", "", "| step | metric | value |", "|---|---|---|", *table(session.state.log_history), ""]
    lines += ["## Arguments", "", *arguments(session.args), "", "## Versions", "", f"- torch {torch.__version__}", ""]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")


def yaml_lines(header: dict[str, Any]) -> list[str]:
    """Return the entries that hold anything, as lines of YAML."""
    import yaml

    text: str = yaml.safe_dump({k: v for k, v in header.items() if v}, sort_keys=False, allow_unicode=True)
    return text.splitlines()


def results(
    name: str, metrics: dict[str, float], tasks: list[str], tags: list[str], names: list[str], configs: list[str]
) -> list[dict[str, Any]]:
    """Return the last metrics for every task and set of data, as the hub's index of models takes them; it refuses
    entries without a task, a set or a metric."""
    found = [{"type": metric, "name": metric, "value": value} for metric, value in metrics.items()]
    sets = []
    for place, tag in enumerate(tags):
        one = {"type": tag, "name": names[place] if place < len(names) else tag}
        sets.append(one | ({"args": configs[place]} if place < len(configs) else {}))
    entries = [{"task": {"type": task}, "dataset": one, "metrics": found} for task in tasks for one in sets]
    return [{"name": name, "results": entries}] if entries and found else []


def base_name(model: nn.Module) -> str | None:
    """Return the name of the model that this one was made from; None for none, and for a folder of this machine."""
    if not (is_pretrained(model) or is_adapter(model)):
        return None
    name = getattr(base_model(model).config, "_name_or_path", None)
    return name if name and not Path(name).is_absolute() and not Path(name).exists() else None


def last_metrics(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the numbers of a log's last evaluation, without those of speed, by their names without `eval_`."""
    for entry in reversed(history):
        found = {
            name.removeprefix("eval_"): float(value)  # YAML knows no numbers of numpy
            for name, value in entry.items()
            if name.startswith("eval_")
            and not name.endswith(_SPEED)
            and isinstance(value, int | float)
            and isfinite(value)
        }
        if found:
            return found
    return {}


def table(history: list[dict[str, Any]]) -> list[str]:
    """Return a row for every number of a log that an evaluation gave."""
    return [
        f"| {entry['step']} | {name} | {value:.4g} |"
        for entry in history
        for name, value in entry.items()
        if name.startswith("eval_") and isinstance(value, float)
    ]


def arguments(args: TrainingArguments) -> list[str]:
    """Return a line for every argument of the training itself that was chosen."""
    usual = vars(TrainingArguments(args.output_dir))
    names = ["seed", *(f.name for group in _GROUPS for f in fields(group))]
    chosen = {name: getattr(args, name, usual[name]) for name in names}
    return [f"- {name}: {value}" for name, value in chosen.items() if name == "seed" or value != usual[name]]


def listed(names: Any) -> list[str]:
    """Return one name, several or none as a list."""
    return [names] if isinstance(names, str) else list(names or ())
