"""A checkpoint folder exists whole or not at all.

It is written under a temporary name beside its place; every file and the folder are flushed to the disk, a manifest
with the size and checksum of every file comes last, and one rename makes it a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.errors import CheckpointError

MANIFEST = "manifest.json"
PREFIX = "checkpoint"
_NAME = re.compile(rf"^{PREFIX}-(\d+)$")
_TEMPORARY = f".{PREFIX}-"


@dataclass(frozen=True)
class Damage:
    """Why a folder cannot be used as a checkpoint."""

    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.folder.name}: {self.reason}"


@contextmanager
def new_checkpoint(place: Path) -> Iterator[Path]:
    """Give a temporary folder to write into; on leaving without an error it becomes `place`, all at once.

    Raises:
        CheckpointError: the folder cannot be written; what was there before is untouched.
    """
    temporary = place.parent / f"{_TEMPORARY}{place.name}-{os.getpid()}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        seal(temporary)
        publish(temporary, place)
    except OSError as error:
        free = shutil.disk_usage(_existing_parent(place)).free
        raise CheckpointError(
            f"The checkpoint {place} could not be written: {error.strerror or error} ({free / 1e6:.0f} MB free). "
            "Earlier checkpoints are untouched."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path) -> None:
    """Flush every file to the disk and write the manifest that says what belongs to the folder."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _flush(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": checksum(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": 1, "files": files}, indent=1) + "\n", encoding="utf-8")
    _flush(manifest)
    _flush(folder)


def publish(temporary: Path, place: Path) -> None:
    """Rename a sealed folder to its place; one that is there already steps aside first and goes last."""
    old = None
    if place.exists():
        old = place.parent / f"{_TEMPORARY}old-{place.name}-{os.getpid()}"
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    temporary.rename(place)
    _flush(place.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest step first."""
    if not output_dir.is_dir():
        return []
    found = [(int(m[1]), path) for path in output_dir.iterdir() if (m := _NAME.match(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found)]


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint folder; -1 for other names."""
    match = _NAME.match(folder.name)
    return int(match[1]) if match else -1


def damage(folder: Path) -> Damage | None:
    """Return what is wrong with a checkpoint, or None when every file is as the manifest says.

    A folder without a manifest (transformers' own) is checked for the files that resuming needs.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        return None if (folder / "trainer_state.json").exists() else Damage(folder, "trainer_state.json is missing")
    try:
        files: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, OSError) as error:
        return Damage(folder, f"{MANIFEST} cannot be read ({error})")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return Damage(folder, f"{name} is missing")
        if path.stat().st_size != expected["size"]:
            return Damage(folder, f"{name} has {path.stat().st_size} bytes instead of {expected['size']}")
        if checksum(path) != expected["sha256"]:
            return Damage(folder, f"{name} has other contents than were written")
    return None


def newest_valid(output_dir: Path) -> tuple[Path | None, list[Damage]]:
    """Return the newest checkpoint whose files are whole, and what is wrong with those passed over."""
    passed_over: list[Damage] = []
    for folder in reversed(checkpoints(output_dir)):
        fault = damage(folder)
        if fault is None:
            return folder, passed_over
        passed_over.append(fault)
    return None, passed_over


def sweep(output_dir: Path) -> None:
    """Delete what saves that died have left behind."""
    for path in output_dir.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def rotate(output_dir: Path, keep: int | None, best: str | None) -> list[Path]:
    """Delete the oldest checkpoints beyond `keep`, never the best nor the newest; return what was deleted."""
    present = checkpoints(output_dir)
    if keep is None or len(present) <= keep:
        return []
    protected = {present[-1]} | ({Path(best).resolve()} if best else set())
    candidates = [path for path in present if path not in protected and path.resolve() not in protected]
    surplus = candidates[: len(present) - keep]
    for path in surplus:
        shutil.rmtree(path, ignore_errors=True)
    return surplus
