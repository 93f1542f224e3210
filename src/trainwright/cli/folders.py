"""Every run has a folder of its own, and the folder tells how it was made."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from trainwright.checkpoint import layout, lock
from trainwright.checkpoint.lock import RunLock
from trainwright.cli import as_job
from trainwright.config.keys import fates
from trainwright.config.params import ARGUMENTS, TrainingParams
from trainwright.config.reading.writing import RUN_CONFIG, as_yaml, by_name, keep, plain, with_whole_paths, write_whole
from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError
from trainwright.jobs import paths
from trainwright.jobs.store import masking
from trainwright.world import current_world

ABOUT = "run.json"
RUNS = Path("runs")
_LIBRARIES = (
    "trainwright", "torch", "transformers", "tokenizers", "datasets", "peft", "trl", "accelerate", "numpy",
    "safetensors",
)  # fmt: skip


def choose(config: TrainingConfig, file: Path, resume: bool, new: bool) -> None:
    """Decide the run's folder, and note it in the configuration; a new one is made at once, so it is nobody else's.

    Without `training.output_dir` it is runs/<name>-<n>, the next number that is free; with `resume` the last one that
    this file began, and with `training.try_resume_from_last_checkpoint` that one if there is one. A job of the queue
    has a folder of its own, which it goes on in.

    Raises:
        ConfigError: several processes would have to choose one.
    """
    params, world = config.training, current_world()
    job = paths.job_of_this_process()
    if params.output_dir is None and job is not None:
        params.output_dir = str(paths.job_folder(job) / "output")
    if params.output_dir is None:
        if not world.is_alone and not resume:
            raise ConfigError("Several processes need one folder: give training.output_dir.")
        name = re.sub(r"[^\w.-]+", "-", params.run_name or file.stem)
        own = runs_of(file, RUNS / name) if resume or params.try_resume_from_last_checkpoint else []
        if resume and not own:
            raise ConfigError(
                f"There is no run '{RUNS / name}-<n>' of '{file}' to go on with. --resume FOLDER goes on with any run."
            )
        params.output_dir = str(own[-1]) if own else _reserved(RUNS / name, 1)
        return
    folder = Path(params.output_dir).expanduser()
    if not new or resume or not world.is_main or not holds_run(folder):
        return
    if not world.is_alone:
        raise ConfigError(
            "Several processes cannot choose a folder: give another training.output_dir in place of --new."
        )
    params.output_dir = _reserved(folder, 2)


@contextmanager
def owned(params: TrainingParams, may_hold_run: bool) -> Iterator[RunLock]:
    """Own the run's folder while the body runs; one in which nothing began is removed again.

    Raises:
        ConfigError: it cannot be written, another run is in it, or it holds one and may not.
    """
    folder = Path(params.output_dir or "output").expanduser()
    goes_on = may_hold_run or params.resume_from_checkpoint or params.try_resume_from_last_checkpoint
    with lock.owned(folder) as own:
        if current_world().is_main and not goes_on and holds_run(folder):
            raise ConfigError(
                f"output_dir '{folder}' holds another run. --resume goes on with it, --new takes a new folder beside "
                "it, --overwrite starts anew in it (its checkpoints are moved aside)."
            )
        yield own


def announce(config: TrainingConfig, file: Path) -> None:
    """Say at once, before any library is loaded, that the file holds no mistake, and where the run will lie."""
    if current_world().is_main and config.training.log_level not in ("error", "critical"):
        what = f"{file} has no mistakes; the run's folder is {config.training.output_dir}."
        print(f"{what} Loading libraries, data and model ...", file=sys.stderr, flush=True)


def _reserved(path: Path, first: int) -> str:
    """Make the folder `<path>-<n>` of the next number that is free, and return it.

    Raises:
        ConfigError: it cannot be made.
    """
    number = max([first - 1, *numbered(path)])
    while True:
        number += 1
        folder = path.with_name(f"{path.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run was first
            continue
        except OSError as error:
            raise ConfigError(f"The run's folder '{folder}' cannot be made: {error.strerror}.") from None
        return str(folder)


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RUN_CONFIG).exists() or layout.holds_any(folder)


def runs_of(file: Path, path: Path) -> list[Path]:
    """Return the folders `<path>-<n>` of runs that were begun with a file, in order; another file may have its name."""
    folders = [path.with_name(f"{path.name}-{number}") for number in numbered(path)]
    return [one for one in folders if str(file.resolve()) in {about.get("file") for about in _history(one)}]


def _history(folder: Path) -> list[dict[str, Any]]:
    """Return what a folder tells of every beginning of its run; nothing where it cannot be read."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [about for about in found if isinstance(about, dict)] if isinstance(found, list) else []


def job_of(params: TrainingParams) -> str | None:
    """Return the job that the newest beginning of a run was, where it is still known here."""
    history = _history(Path(params.output_dir or "output").expanduser())
    found = [about["job"] for about in history if isinstance(about.get("job"), str)][-1:]
    return next(
        (job for job in found if paths.is_name(job) and (paths.job_folder(job) / paths.JOURNAL).is_file()), None
    )


def numbered(path: Path) -> list[int]:
    """Return the numbers n of the folders `<path>-<n>`, in order."""
    found = [one.name.removeprefix(f"{path.name}-") for one in path.parent.glob(f"{path.name}-*")]
    return sorted(int(number) for number in found if number.isdigit())


def describe(config: TrainingConfig, file: Path, argv: Sequence[str], goes_on: bool) -> None:
    """Write into the run's folder what it needs to be resumed and to be understood later; of a run that goes on, say
    what is another thing than before."""
    if not current_world().is_main:
        return
    folder = Path(config.training.output_dir or "output").expanduser()
    for change in _changes(config, folder / RUN_CONFIG) if goes_on else ():
        print(f"Changed since this run was last begun: {change}.", file=sys.stderr, flush=True)
    keep(config, folder)
    about = {
        "command": shlex.join(["trainwright", "train", *masking.command(argv)]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "folder": str(Path.cwd()),
        "file": str(file.resolve()),
        "job": as_job.of_this_run(),
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
    }
    write_whole(folder / ABOUT, json.dumps([*_history(folder), about], indent=1) + "\n")


def _changes(config: TrainingConfig, file: Path) -> Iterator[str]:
    """Yield the settings that are not those of a run.yaml, but for arguments, which the Trainer tells."""
    if not file.is_file():
        return
    try:
        earlier = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return
    if not isinstance(earlier, dict):
        return
    before, now = (by_name(one) for one in (earlier, with_whole_paths(as_yaml(config))))
    usual = fates.every_key()
    for name in sorted({*before, *now}):
        old, new = (one.get(name, plain(usual.get(name))) for one in (before, now))
        if old != new and name.removeprefix("training.") not in ARGUMENTS:
            yield f"{name} {old} -> {new}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
