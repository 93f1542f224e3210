"""Where a model that is made of another one is written: whole or not at all, and never over something else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainwright.checkpoint import folder as folders
from trainwright.checkpoint import layout
from trainwright.config.reading.writing import RUN_CONFIG
from trainwright.errors import ConfigError
from trainwright.trained.folders import Trained, weights_of


def place_for(trained: Trained, name: str) -> Path:
    """Return where a model that is made of another one is written by default: in the run's folder, by the name of the
    checkpoint that it is made of."""
    inside = trained.folder.resolve() != trained.run.resolve()
    return trained.run / (f"{name}-{trained.folder.name}" if inside else name)


@contextmanager
def written(place: Path, anew: bool = False) -> Iterator[Path]:
    """Give a folder to write into, which becomes `place` when the body is over, and is gone where it fails.

    Args:
        place: a new or empty folder.
        anew: whether a model that lies there gives way; a run, or anything else, never does.

    Raises:
        ConfigError: there is something already, or it cannot be written there.
    """
    _check(place, anew)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = folders.open_temporary(place)
    except OSError as error:
        raise ConfigError(f"'{place}' cannot be written: {error.strerror or error}.") from None
    try:
        yield temporary
        folders.publish(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(place: Path, anew: bool) -> None:
    if place.is_file():
        raise ConfigError(f"'{place}' is a file; give a folder.")
    if not place.exists() or not any(place.iterdir()):
        return
    if not anew:
        raise ConfigError(f"'{place}' is there already. Give another folder with --out, or --overwrite.")
    is_run = (place / RUN_CONFIG).exists() or layout.step_of(place) >= 0 or layout.holds_any(place)
    if is_run or weights_of(place) is None or any(path.is_dir() for path in place.iterdir()):
        raise ConfigError(f"'{place}' holds {'a run' if is_run else 'other things than a model'}. Give another folder.")
