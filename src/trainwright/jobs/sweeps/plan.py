"""What a sweep is: kept in a folder of its own, so that whoever goes on with it does the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs import paths
from trainwright.jobs.store.store import Store
from trainwright.jobs.sweeps import spaces, table
from trainwright.jobs.worker import queue

PLAN, STUDY, LOCK = "sweep.json", "study.db", "lock"
_SWEEPS = "sweeps"

Described = Callable[[Path, list[str]], tuple[dict[str, Any], dict[str, Any]]]
"""Looks at a YAML file with overrides, and returns what it gives and what everything is by default."""


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        name: of it, and of the experiment that its jobs are in.
        file: a script or a YAML file; the latter is kept in the sweep's folder.
        words: what is tried, and what is the same in all jobs.
        metric: what is to be best.
        direction: `minimize` or `maximize`.
        trials: how many, where something decides what is tried next; else all combinations are.
        prune: end those that are worse than the median of those before, at the same step.
        seed: of what is drawn.
        restarts: how often a job is begun again by itself.
        gpus: devices that each needs.
        cwd: the folder that it was begun in.
    """

    name: str
    file: str
    words: list[str]
    metric: str
    direction: str
    trials: int | None = None
    prune: bool = False
    seed: int = 0
    restarts: int = 0
    gpus: int = 0
    cwd: str = field(default_factory=lambda: str(Path.cwd()))

    @property
    def folder(self) -> Path:
        """Where the plan is kept."""
        return folder_of(self.name)

    def is_searched(self) -> bool:
        """Whether something decides what is tried next, or what is ended early."""
        return self.prune or self.trials is not None

    def combinations(self) -> list[dict[str, str]] | None:
        """Return all combinations; None where there is a range."""
        return spaces.grid(spaces.read(self.words)[0])


def folder_of(name: str) -> Path:
    """Return where a sweep's plan is kept.

    Raises:
        JobError: that is no name.
    """
    if not paths.is_name(name):
        raise JobError(f"'{name}' is no name of a sweep: letters, digits, '-', '_' and '.', at most 64, are.")
    return paths.home() / _SWEEPS / name


def new_name(stem: str) -> str:
    """Return a name that no sweep has yet: `<file>-sweep-<n>`."""
    number = 1
    while folder_of(f"{stem[:40]}-sweep-{number}").exists():
        number += 1
    return f"{stem[:40]}-sweep-{number}"


def keep(plan: Plan) -> Plan:
    """Keep a plan, with its YAML file as it is now; return it as it is kept.

    Raises:
        JobError: there is a sweep of this name, or it cannot be written.
    """
    if (plan.folder / PLAN).exists():
        raise JobError(
            f"There is a sweep '{plan.name}' already; go on with it by --resume {plan.name}, or give --name."
        )
    file = Path(plan.file).resolve()
    try:
        paths.make(plan.folder)
        if file.suffix in queue.YAML:
            file = Path(shutil.copyfile(file, plan.folder / file.name))
        kept = Plan(**{**asdict(plan), "file": str(file)})
        part = plan.folder / f".{PLAN}"
        part.write_text(json.dumps(asdict(kept), indent=1), encoding="utf-8")
        part.replace(plan.folder / PLAN)
    except OSError as error:
        raise JobError(f"The sweep cannot be kept in '{plan.folder}': {error.strerror}.") from None
    return kept


def load(name: str) -> Plan:
    """Return the plan of a sweep.

    Raises:
        JobError: there is none of this name.
    """
    try:
        return Plan(**json.loads((folder_of(name) / PLAN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = sorted(path.parent.name for path in (paths.home() / _SWEEPS).glob(f"*/{PLAN}"))
        raise JobError(f"There is no sweep '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.") from None


def submit(store: Store, plan: Plan, trial: int, params: dict[str, str], described: Described) -> str:
    """Put the job of a trial into the queue; return its name.

    Raises:
        JobError, ConfigError: it cannot run so.
    """
    file, same = Path(plan.file), spaces.read(plan.words)[1]
    place = {"name": plan.name, "trial": trial, "params": {name: typed(text) for name, text in params.items()},
             "metric": plan.metric, "direction": plan.direction}  # fmt: skip
    words = [*same, *spaces.overrides(params)]
    is_yaml = file.suffix in queue.YAML
    return queue.submit(
        store, file, {} if is_yaml else queue.given(words), words if is_yaml else (), name=f"{plan.name}-{trial}",
        experiment=plan.name, restarts=plan.restarts, gpus=plan.gpus, kept={table.KEPT: place},
        described_by=described(file, words) if is_yaml else None,
    )  # fmt: skip


def typed(text: str) -> Any:
    """Return the number that a text is, else the text."""
    from trainwright.jobs.written import guessed

    return guessed(text)


def missing(store: Store, plan: Plan) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield the combinations, with their numbers, that have no job yet."""
    there = {job["kept"][table.KEPT]["trial"] for job in table.jobs(store, plan.name)}
    for trial, params in enumerate(plan.combinations() or ()):
        if trial not in there:
            yield trial, params
