"""Jobs into the queue, and out of it again; what differs between some of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.errors import JobError
from trainwright.jobs import commands, paths
from trainwright.jobs.status import ENDED, RESUMABLE
from trainwright.jobs.store import outputs, typed
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.worker import declared
from trainwright.jobs.written import key, spelled

YAML = (".yaml", ".yml")


def given(texts: Sequence[str]) -> dict[str, str | bool]:
    """Return parameters that are written as `name=text`, in this spelling; `name` alone is a switch, and true.

    Raises:
        JobError: one has no name, or is given twice.
    """
    found: dict[str, str | bool] = {}
    for written in texts:
        name, equals, text = written.removeprefix("--").partition("=")
        if not name or name.startswith("-") or any(letter.isspace() for letter in name):
            raise JobError(f"--param {written!r} has no name; write NAME=VALUE, or NAME for a switch.")
        if key(name) in map(key, found):
            raise JobError(f"--param {key(name)} is given twice; '-' and '_' are one in a parameter's name.")
        found[name] = text if equals else True
    return found


def submit(
    store: Store, file: Path, params: Mapping[str, Any], overrides: Sequence[str] = (), *, name: str | None = None,
    experiment: str = "default", after: str | None = None, restarts: int = 0, gpus: int = 0,
    described_by: tuple[dict[str, Any], dict[str, Any]] | None = None, kept: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Put a script or a YAML file into the queue, the latter as it is now; return the job's name.

    Args:
        store: the database.
        file: the script, or the YAML file.
        params: a script's, by the names that it gets; True is a switch, `--name`.
        overrides: values of a YAML file, as `trainwright train` takes them.
        name: shown in lists; by default the file's.
        experiment: a group of jobs.
        after: the job that this one waits for.
        restarts: how often it is begun again by itself.
        gpus: devices that it needs.
        described_by: what a YAML file gives, and what everything is by default; by default the overrides alone.
        kept: what is kept with the job from its first word on.

    Raises:
        JobError: there is no such file, or it is neither, or it cannot be kept; there is no job to come after.
    """
    if not file.is_file():
        raise JobError(f"There is no file '{file}' (looked for from {Path.cwd()}).")
    before = store.find(after)["id"] if after else None
    job, described = paths.new_id(), None
    if file.suffix in YAML:
        if params:
            raise JobError("--param is for scripts; change a YAML file's values with KEY=VALUE after it.")
        command = [sys.executable, "-m", "trainwright", "train", "-c", _kept(file, job), *overrides]
        params, described = described_by or (commands.texts(overrides), None)
    elif file.suffix == ".py":
        if overrides:
            raise JobError(f"'{overrides[0]}': a script's parameters are given with --param NAME=VALUE.")
        declared.check(file, params)
        command = [sys.executable, str(file.resolve()), *arguments(params)]
    else:
        raise JobError(f"'{file}' is neither a script (.py) nor a YAML file.")
    store.submit(
        job, name=name or commands.name_of(file), experiment=experiment, command=command, cwd=str(Path.cwd()),
        params={key(one): value for one, value in params.items()}, defaults=described,
        after=before, restarts=restarts, gpus=gpus, kept=None if kept is None else dict(kept),
    )  # fmt: skip
    return job


def _kept(file: Path, job: str) -> str:
    """Return the copy of a YAML file that is a job's own: whoever changes the file later changes later jobs.

    Raises:
        JobError: it cannot be written.
    """
    own = paths.job_folder(job) / file.name
    try:
        paths.make(own.parent)
        shutil.copyfile(file, own)
    except OSError as error:
        raise JobError(f"'{file}' cannot be kept with the job: {error.strerror}.") from None
    return str(own)


def arguments(params: Mapping[str, Any]) -> list[str]:
    """Return parameters as a command line: --name=value, and --name for a switch."""
    return [f"--{name}" if value is True else f"--{name}={spelled(value)}" for name, value in params.items()]


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
    output, folder = _output_key(job["command"]), outputs.run_folder(job)
    known = folder or job["params"].get(output)  # which it has chosen before it told of any file
    if output == _TRAIN and known and not any(output in word for word in job["command"]):
        store.update(job["id"], command=[*job["command"], f"{output}={known}"])
    return str(job["id"])


def again(store: Store, job: Job, changes: dict[str, Any]) -> str:
    """Put a new job into the queue that is another one with changed parameters, begun as that one was; return its name.

    Where its results have a folder of their own, the new one's are in a folder of the new job.

    Raises:
        JobError: nobody knows how that one was begun, or a parameter is none of its.
    """
    if len(job["command"]) < 2:
        raise JobError(f"The job {job['id']} cannot be begun again: how it was begun is not known.")
    unknown = [name for name in changes if name[:1] == "-" or not key(name).replace(".", "").replace("_", "").isalnum()]
    if unknown:
        raise JobError(f"{unknown[0]!r} is no name of a parameter.")
    changes = {key(name): value for name, value in changes.items()}
    new = paths.new_id()
    output, command = _output_key(job["command"]), _not_resuming(job["command"])
    params = {name: value for name, value in job["params"].items() if name != output}
    own = paths.job_folder(job["id"])
    command = [_kept(Path(word), new) if Path(word).parent == own else word for word in command]
    words = dict(changes)
    if commands.is_ours(command) or any(_names(word, output) for word in command):
        words.setdefault(output, str(paths.job_folder(new) / "output"))
    store.submit(
        new, name=job["name"], experiment=job["experiment"], command=commands.changed(command, words, params),
        params={**params, **changes}, cwd=job["cwd"], restarts=job["restarts"], gpus=job["gpus"],
    )  # fmt: skip
    return new


_TRAIN = "training.output_dir"


def _output_key(command: Sequence[str]) -> str:
    """Return the name of the parameter that says where the results of a command go."""
    if not commands.is_ours(command):
        return "output_dir"
    words = [word for word in commands.split(command)[1] if word in ("algebra", "imitation")]
    return {"algebra": "train.save_dir", "imitation": "train.output_dir"}[words[0]] if words else _TRAIN


def _not_resuming(command: Sequence[str]) -> list[str]:
    """Return one of our commands as it was before it was to go on: --resume FOLDER was the run that lies there."""
    words = list(command)
    if not commands.is_ours(words) or "--resume" not in words:
        return words
    place = words.index("--resume")
    after = "".join(words[place + 1 : place + 2])
    if not after or "=" in after or after.startswith("-") or Path(after).suffix in YAML:
        return [*words[:place], *words[place + 1 :]]
    has_file = any(word in ("-c", "--config") or Path(word).suffix in YAML for word in words if word != after)
    return [*words[:place], *([] if has_file else ["-c", str(Path(after) / "run.yaml")]), *words[place + 2 :]]


def _names(word: str, name: str) -> bool:
    return word.startswith("--") and key(word[2:].partition("=")[0]) == name


def differences(store: Store, jobs: Sequence[Job]) -> dict[str, dict[str, list[Any]]]:
    """Return what is not the same in all jobs, and the newest value of every metric, job by job.

    That is `params`, the whole configuration of each where it told of it, `code`: commit and digest of what was changed
    since, and `versions` of installed packages.
    """
    whole = [{**store.read(typed.defaults, job["defaults"]), **job["params"]} for job in jobs]
    ran = [job["kept"].get("code") or {} for job in jobs]
    code = [{"commit": one.get("commit"), "uncommitted": one.get("diff") and one["diff"][:12]} for one in ran]
    newest = [store.last_metrics(job["id"]) for job in jobs]
    metrics = {name: [one[name][1] if name in one else None for one in newest] for name in sorted(set().union(*newest))}
    return {"params": _differing(whole), "code": _differing(code), "metrics": metrics,
            "versions": _differing([job["kept"].get("versions") or {} for job in jobs])}  # fmt: skip


def _differing(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return what is not the same in all, by name, one by one."""
    names = dict.fromkeys(name for one in found for name in one)
    rows = {name: [one.get(name) for one in found] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}
