"""Jobs into the queue, and out of it again; what differs between some of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.errors import JobError
from trainwright.jobs import places
from trainwright.jobs.params import scalar
from trainwright.jobs.status import ENDED, RESUMABLE
from trainwright.jobs.store import Job, Store

YAML = (".yaml", ".yml")


def pair(text: str) -> tuple[str, Any]:
    """Return name and value of `name=value`.

    Raises:
        JobError: it is none.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise JobError(f"--param {text!r} has no '='; write NAME=VALUE.")
    return name, scalar(value)


def submit(
    store: Store, file: Path, params: dict[str, Any], overrides: Sequence[str] = (), *, name: str | None = None,
    experiment: str = "default", after: str | None = None, restarts: int = 0, gpus: int = 0,
) -> str:  # fmt: skip
    """Put a script or a YAML file into the queue; return the job's name.

    Raises:
        JobError: there is no such file, or it is neither; there is no job to come after.
    """
    if not file.is_file():
        raise JobError(f"There is no file '{file}' (looked for from {Path.cwd()}).")
    job = places.new_id()
    if file.suffix in YAML:
        if params:
            raise JobError("--param is for scripts; change a YAML file's values with KEY=VALUE after it.")
        command = run_command(file, overrides, places.job_folder(job))
        params = dict(pair(text) for text in overrides)
    elif file.suffix == ".py":
        if overrides:
            raise JobError(f"'{overrides[0]}': a script's parameters are given with --param NAME=VALUE.")
        command = [sys.executable, str(file.resolve()), *arguments(params)]
    else:
        raise JobError(f"'{file}' is neither a script (.py) nor a YAML file.")
    store.submit(
        job, name=name or file.stem, experiment=experiment, command=command, params=params, cwd=str(Path.cwd()),
        folder=str(places.job_folder(job)), after=store.find(after)["id"] if after else None, restarts=restarts,
        gpus=gpus,
    )  # fmt: skip
    return job


def arguments(params: dict[str, Any]) -> list[str]:
    """Return parameters as a command line: --name value."""
    return [f"--{name}={value}" for name, value in params.items()]


def run_command(file: Path, overrides: Sequence[str], folder: Path) -> list[str]:
    """Return the command that trains what a YAML file describes, in the job's folder unless it names another."""
    words = list(overrides)
    if "output_dir" not in file.read_text(encoding="utf-8") and not any("output_dir" in word for word in words):
        words.append(f"training.output_dir={folder / 'output'}")
    return [sys.executable, "-m", "trainwright.cli.main", "train", "-c", str(file.resolve()), *words]


def resume(store: Store, job: Job) -> str:
    """Put a job that ended back into the queue, to go on where it was; return its name.

    Raises:
        JobError: it has not ended, is complete, or nobody knows how it was begun.
    """
    if job["status"] not in RESUMABLE:
        hint = "it is complete" if job["status"] in ENDED else f"it is {job['status']}"
        raise JobError(f"The job {job['id']} cannot go on: {hint}.")
    if not job["command"]:
        raise JobError(f"The job {job['id']} cannot go on: how it was begun is not known.")
    if not store.requeue(job["id"], job["attempt"]):
        raise JobError(f"The job {job['id']} was put into the queue by someone else just now.")
    words = [word for word in job["command"] if word.startswith("training.output_dir=")]
    if "train" in job["command"] and "-c" in job["command"] and not words and job["data"].get("output_dir"):
        store.update(job["id"], command=[*job["command"], f"training.output_dir={job['data']['output_dir']}"])
    return str(job["id"])


def again(store: Store, job: Job, changes: dict[str, Any]) -> str:
    """Put a new job into the queue that is another one with changed parameters; return its name.

    Raises:
        JobError: nobody knows how that one was begun, or a parameter is none of its.
    """
    command = list(job["command"])
    if len(command) < 2:
        raise JobError(f"The job {job['id']} cannot be begun again: how it was begun is not known.")
    unknown = [name for name in changes if not name.replace(".", "").replace("_", "").isalnum()]
    if unknown:
        raise JobError(f"{unknown[0]!r} is no name of a parameter.")
    params = {**job["params"], **changes}
    new = places.new_id()
    if command[1:3] == ["-m", "trainwright.cli.main"]:
        kept = [word for word in command if word.partition("=")[0] not in {*changes, "training.output_dir", "--resume"}]
        command = [*kept, *(f"{name}={value}" for name, value in changes.items()),
                   f"training.output_dir={places.job_folder(new) / 'output'}"]  # fmt: skip
    else:
        script = next((i for i, word in enumerate(command) if word.endswith(".py")), 1)
        command = [*command[: script + 1], *arguments({k: v for k, v in params.items() if k != "output_dir"})]
    store.submit(
        new, name=job["name"], experiment=job["experiment"], command=command, params=params, cwd=job["cwd"],
        folder=str(places.job_folder(new)), restarts=job["restarts"], gpus=job["gpus"],
    )  # fmt: skip
    return new


def differences(store: Store, jobs: Sequence[Job]) -> dict[str, dict[str, list[Any]]]:
    """Return the parameters that are not the same in all jobs, and the newest value of every metric, job by job."""
    names = dict.fromkeys(name for job in jobs for name in job["params"])
    params = {name: [job["params"].get(name) for job in jobs] for name in names}
    newest = [store.last_metrics(job["id"]) for job in jobs]
    metrics = {name: [one[name][1] if name in one else None for one in newest] for name in sorted(set().union(*newest))}
    return {
        "params": {name: values for name, values in params.items() if any(value != values[0] for value in values)},
        "metrics": metrics,
    }
