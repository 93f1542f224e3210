"""The page: what every stage found, as a table, with the machine that it was found on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.stages import STAGES


def write(path: Path, machine: str, results: dict[str, dict[str, Any]]) -> None:
    """Write the page of the results so far, by stage."""
    lines = ["# On a GPU", "", f"Written by `make gpu`: {machine}.", ""]
    lines += ["| stage | outcome | seconds |", "|---|---|---|"]
    for stage in STAGES:
        one = results.get(stage.name)
        outcome = "not run" if one is None else one["outcome"].splitlines()[0]
        lines.append(f"| {stage.name} | {_cell(outcome)} | {'' if one is None else format(one['seconds'], '.0f')} |")
    for stage in STAGES:
        one = results.get(stage.name)
        if one is None:
            continue
        lines += ["", f"## {stage.name}", "", " ".join((stage.function.__doc__ or "").split()), ""]
        if one["found"]:
            lines += ["| | |", "|---|---|"]
            lines += [f"| {_cell(name)} | {_cell(str(value))} |" for name, value in one["found"].items()]
        if one["outcome"] != "passed":
            lines += ["```text", one["outcome"], "```"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
