"""What is written beside a model that a job made: `info.json`, and the card that the hub reads."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.errors import JobError
from trainwright.jobs import values

INFO, CARD = "info.json", "README.md"


@dataclass(frozen=True)
class Model:
    """A model that a job made.

    Attributes:
        name: of the model.
        architecture: such as LlamaForCausalLM.
        pipeline_tag: what it is for, such as text-generation.
        parent: the model that it was made from.
        job: that made it.
        more: what else is to be said.
    """

    name: str
    architecture: str | None = None
    pipeline_tag: str | None = None
    parent: str | None = None
    job: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


def folder_name(name: str) -> str:
    """Return a model's name as that of a folder: of `org/model` the last part.

    Raises:
        JobError: it is none.
    """
    last = str(name).rstrip("/").rpartition("/")[2]
    if last in ("", ".", "..") or "\0" in last:
        raise JobError(f"'{name}' is no name of a model: a folder is called by its last part.")
    return last


def describe(folder: Path, model: Model, info: bool = True) -> Path:
    """Write a model's description and card into its folder, which is made where it is not there; return the folder.

    A card that is there already, such as a Trainer's, stays.

    Raises:
        JobError: the folder cannot be written.
    """
    about = {
        "name": model.name, "architecture": model.architecture, "pipeline_tag": model.pipeline_tag,
        "parent_model": model.parent, "job": model.job, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **values.plain(model.more),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if info:
            (folder / INFO).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if not (folder / CARD).exists():
            (folder / CARD).write_text(card(model, about), encoding="utf-8")
    except OSError as error:
        raise JobError(f"The model's folder '{folder}' cannot be written: {error.strerror or error}.") from error
    return folder


def card(model: Model, about: dict[str, Any]) -> str:
    """Return the text of README.md: the hub's header, and a table of what is known; JSON is YAML too."""
    header = {"base_model": model.parent, "pipeline_tag": model.pipeline_tag}
    head = [f"{name}: {json.dumps(value)}" for name, value in header.items() if value]
    rows = [f"| {name} | {_cell(value)} |" for name, value in about.items() if value not in (None, "", {}, [])]
    return "\n".join(["---", *head, "---", "", f"# {model.name}", "", "| | |", "|---|---|", *rows, ""])


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
