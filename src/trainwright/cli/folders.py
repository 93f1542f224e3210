"""Every run has a folder of its own, and the folder tells how it was made."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainwright.checkpoint import layout
from trainwright.config.schema import TrainingConfig
from trainwright.config.writing import RUN_CONFIG, keep
from trainwright.errors import ConfigError
from trainwright.jobs import places
from trainwright.world import current_world

ABOUT = "run.json"
RUNS = Path("runs")
_LIBRARIES = (
    "trainwright", "torch", "transformers", "tokenizers", "datasets", "peft", "trl", "accelerate", "numpy",
    "safetensors",
)  # fmt: skip


def choose(config: TrainingConfig, file: Path, resume: bool, new: bool, overwrite: bool) -> None:
    """Decide the run's folder, and note it in the configuration; a new one is made at once, so it is nobody else's.

    Without `training.output_dir` it is runs/<name>-<n>, the next number that is free; with `resume` the last one, and
    with `training.try_resume_from_last_checkpoint` the last one if there is one. A job of the queue has a folder of its
    own, which it goes on in.

    Raises:
        ConfigError: the folder holds another run, or several processes would have to choose one.
    """
    params, world = config.training, current_world()
    job = places.job_of_this_process()
    if params.output_dir is None and job is not None:
        params.output_dir = str(places.job_folder(job) / "output")
    if params.output_dir is None:
        if world.size > 1 and not resume:
            raise ConfigError("Several processes need one folder: give training.output_dir.")
        name = re.sub(r"[^\w.-]+", "-", params.run_name or file.stem)
        begun = [number for number in numbered(RUNS / name) if holds_run(Path(f"{RUNS / name}-{number}"))]
        if resume and not begun:
            raise ConfigError(f"There is no run '{RUNS / name}-<n>' to go on with.")
        goes_on = begun and (resume or params.try_resume_from_last_checkpoint)
        params.output_dir = f"{RUNS / name}-{begun[-1]}" if goes_on else _reserved(RUNS / name, 1)
        return
    folder = Path(params.output_dir).expanduser()
    if not holds_run(folder) or resume or overwrite or not world.is_main:
        return
    if new and world.size > 1:
        raise ConfigError(
            "Several processes cannot choose a folder: give another training.output_dir in place of --new."
        )
    if new:
        params.output_dir = _reserved(folder, 2)
        return
    if params.resume_from_checkpoint or params.try_resume_from_last_checkpoint:
        return
    raise ConfigError(
        f"output_dir '{folder}' holds another run. --resume goes on with it, --new takes a new folder beside it, "
        "--overwrite starts anew in it (its checkpoints are moved aside)."
    )


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


@contextmanager
def given_back(folder: str | None) -> Iterator[None]:
    """Remove a run's folder again where the body fails before anything is in it."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it holds something, or is not there
            Path(folder or "").rmdir()
        raise


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RUN_CONFIG).exists() or layout.holds_any(folder)


def numbered(path: Path) -> list[int]:
    """Return the numbers n of the folders `<path>-<n>`, in order."""
    found = [one.name.removeprefix(f"{path.name}-") for one in path.parent.glob(f"{path.name}-*")]
    return sorted(int(number) for number in found if number.isdigit())


def describe(config: TrainingConfig, argv: Sequence[str], command: str = "train") -> None:
    """Write into the run's folder what it needs to be resumed and to be understood later."""
    if not current_world().is_main:
        return
    folder = Path(config.training.output_dir or "output").expanduser()
    keep(config, folder)
    about = {
        "command": shlex.join(["trainwright", command, *argv]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
    }
    earlier = folder / ABOUT
    history = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else []
    earlier.write_text(json.dumps([*history, about], indent=1) + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
