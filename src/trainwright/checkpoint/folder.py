"""A checkpoint folder exists whole or not at all.

It is written under a temporary name beside its place; every file and the folder are flushed to the disk, a manifest
with the size and checksum of every file comes last, and one rename makes it a checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from trainwright.checkpoint import plain
from trainwright.checkpoint.layout import MANIFEST, PREFIX, checkpoints, step_of
from trainwright.checkpoint.output import ALGORITHMS, begin_flush, summed
from trainwright.errors import CheckpointError

_TEMPORARY = f".{PREFIX}-"
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # CIFS and some FUSE know no fsync of a folder


def open_temporary(place: Path) -> Path:
    """Make and return the empty temporary folder that is to become `place`; the run's folder must exist."""
    temporary = place.parent / f"{_TEMPORARY}{place.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def probe(run_folder: Path) -> Path:
    """Make and return an empty folder, by which other processes may see that the run's folder is the same."""
    made = run_folder / f"{_TEMPORARY}probe-{uuid4().hex}"
    made.mkdir()
    return made


def link(place: Path, temporary: Path, names: list[str]) -> dict[str, Any]:
    """Let a temporary folder have files of a checkpoint without writing them again; return what its manifest says of
    them, and nothing where the file system cannot do that."""
    try:
        known = manifest(place)["files"]
        for name in names:
            os.link(place / name, temporary / name)
        return {name: known[name] for name in names}
    except (OSError, ValueError, KeyError):
        for name in names:
            (temporary / name).unlink(missing_ok=True)
        return {}


def link_all(source: Path, target: Path) -> None:
    """Let an empty folder have all files of another one, without copying them.

    Raises:
        OSError: the file system cannot do that.
    """
    for name in files_in(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / name, target / name)


def seal(
    folder: Path, run_id: str, written: dict[str, Any] | None = None, linked: dict[str, Any] | None = None
) -> None:
    """Flush every file to the disk and write the manifest that says what belongs to the folder, and to which run.

    Args:
        folder: a temporary folder.
        run_id: the run.
        written: what the manifest says of files that were summed while they were written.
        linked: and of files that are on the disk already.
    """
    known = {**(linked or {}), **(written or {})}
    inside = sorted(files_in(folder))
    others = [name for name in inside if name.as_posix() not in known]
    files = {**known, **{name.as_posix(): summed(folder / name) for name in others}}
    manifest = folder / MANIFEST
    content = {"version": 2, "run": run_id, "files": files}
    manifest.write_text(json.dumps({**content, "sha256": digest(content)}, indent=1) + "\n", encoding="utf-8")
    for path in (*(folder / name for name in others), manifest):
        with _opened(path) as descriptor:
            begin_flush(descriptor)
    for path in (*(folder / name for name in inside if name.as_posix() not in (linked or {})), manifest):
        flush(path)
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        flush(path)


def files_in(folder: Path) -> set[Path]:
    """Return the files in a folder and its folders, relative to it."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def publish(temporary: Path, place: Path) -> None:
    """Rename a sealed folder to its place; one that is there already steps aside first and goes last."""
    old = None
    if place.exists():
        old = place.parent / f"{_TEMPORARY}old-{place.name}-{os.getpid()}"
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    try:
        temporary.rename(place)
    except OSError:
        if old is not None:
            old.rename(place)
        raise
    flush(place.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 of what a manifest says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def flush(path: Path) -> None:
    """Have a file or folder on the disk."""
    with _opened(path) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FSYNC or not path.is_dir():
                raise


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def load(path: Path, mapped: bool = False) -> Any:
    """Read what torch.save wrote, to the host; nothing but tensors, arrays and plain values is unpickled.

    Args:
        path: of the file.
        mapped: whether the contents of tensors are read only where they are used.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return plain.restore(unpickled(path, mapped=mapped))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read: {reason} Resume from an earlier checkpoint, or start anew."
        ) from error


def unpickled(path: Path, device: str = "cpu", mapped: bool = False) -> Any:
    """Return the tree that torch.save wrote; on the device `meta`, its tensors without their contents; mapped, with
    contents that are read when they are used."""
    known = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([kind for kind in _numpy_kinds() if kind not in known]):
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)


def _numpy_kinds() -> list[Any]:
    """Return what rebuilds arrays and numbers of numpy, of fixed size; an array of objects would unpickle them."""
    rebuild, number = np.zeros(1).__reduce__()[0], np.float64().__reduce__()[0]
    return [np.ndarray, np.dtype, rebuild, number, *{type(np.dtype(code)) for code in "?bhilqBHILQefdFD"}]


def manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says, without its own digest.

    Raises:
        ValueError: it is no manifest, or has other contents than were written.
        OSError: it cannot be read.
    """
    path = folder / MANIFEST
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is not a file")
    return parsed(path.read_bytes())


def parsed(text: bytes) -> dict[str, Any]:
    """Return what the text of a manifest says, without its own digest.

    Raises:
        ValueError: it is none.
    """
    try:
        content: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    if not _is_manifest(content):
        raise ValueError("is no manifest")
    if content.pop("sha256") != digest(content):
        raise ValueError("has other contents than were written")
    return content


def _is_manifest(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict) or "sha256" not in content:
        return False
    entries = content["files"].values()
    return all(isinstance(entry, dict) and "size" in entry and ALGORITHMS.keys() & entry.keys() for entry in entries)


def run_of(folder: Path) -> str | None:
    """Return the id of the run that wrote a checkpoint; None where the folder does not tell."""
    try:
        return manifest(folder).get("run")
    except (OSError, ValueError):
        return None


def of_run(output_dir: Path, run_id: str | None) -> list[Path]:
    """Return the checkpoints of one run, oldest step first; those that do not tell their run count too."""
    return [path for path in checkpoints(output_dir) if is_of_run(path, run_id)]


def is_of_run(checkpoint: Path, run_id: str | None) -> bool:
    """Whether a checkpoint is of a run, or does not tell its run."""
    return run_id is None or run_of(checkpoint) in (run_id, None)


def sweep(output_dir: Path) -> None:
    """Delete what saves that died have left behind; put back a checkpoint that was being replaced."""
    for path in output_dir.glob(f"{_TEMPORARY}old-*"):
        place = output_dir / path.name.removeprefix(f"{_TEMPORARY}old-").rpartition("-")[0]
        if not place.exists() and (path / MANIFEST).exists():
            path.rename(place)
    for path in output_dir.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def set_aside(output_dir: Path, origin: Path | None) -> str | None:
    """Move checkpoints that are not the past of a run from `origin` into `previous-<time>`; say so, where there are
    any."""
    folders = checkpoints(output_dir)
    if origin is not None and origin.resolve().parent == output_dir.resolve():
        folders = [path for path in folders if step_of(path) > step_of(origin)]
    if not folders:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    taken = sum(1 for _ in output_dir.glob(f"previous-{stamp}*"))
    previous = output_dir / (f"previous-{stamp}-{taken}" if taken else f"previous-{stamp}")
    previous.mkdir()
    for folder in folders:
        folder.rename(previous / folder.name)
    how = "Starting anew" if origin is None else f"Going on from {origin.name}"
    return f"{how}: other checkpoints in '{output_dir}' were moved to {previous.name}/."


def withdraw(path: Path) -> Path:
    """Take a checkpoint's name from it, so that a kill leaves no half of one; return what is to be removed."""
    gone = path.parent / f"{_TEMPORARY}gone-{path.name}-{os.getpid()}"
    path.rename(gone)
    return gone


def delete(path: Path) -> None:
    """Delete a checkpoint."""
    shutil.rmtree(withdraw(path), ignore_errors=True)
