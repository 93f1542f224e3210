"""A checkpoint folder exists whole or not at all.

It is written under a temporary name beside its place; every file and the folder are flushed to the disk, a manifest
with the size and checksum of every file comes last, and one rename makes it a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainwright.errors import CheckpointError

MANIFEST = "manifest.json"
PREFIX = "checkpoint"
RUN_FILE = "trainwright.json"
_NAME = re.compile(rf"^{PREFIX}-(\d+)$")
_TEMPORARY = f".{PREFIX}-"


def open_temporary(place: Path) -> Path:
    """Make and return the empty temporary folder that is to become `place`; the run's folder must exist."""
    temporary = place.parent / f"{_TEMPORARY}{place.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def seal(folder: Path, run_id: str) -> None:
    """Flush every file to the disk and write the manifest that says what belongs to the folder, and to which run."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _flush(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": checksum(path)}
    manifest = folder / MANIFEST
    content = {"version": 1, "run": run_id, "files": files}
    manifest.write_text(json.dumps({**content, "sha256": digest(content)}, indent=1) + "\n", encoding="utf-8")
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


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 of what a manifest says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> Any:
    """Read what torch.save wrote, to the host; nothing but tensors, arrays and plain values is unpickled.

    Raises:
        CheckpointError: it cannot be read.
    """
    rebuild = np.random.get_state()[1].__reduce__()[0]  # type: ignore[index]
    allowed = [np.ndarray, np.dtype, rebuild, type(np.dtype(np.uint32))]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read: {reason} Resume from an earlier checkpoint, or start anew."
        ) from error


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoint folders in a run's folder, oldest step first."""
    if not output_dir.is_dir():
        return []
    found = [(step_of(path), path) for path in output_dir.iterdir() if _NAME.match(path.name) and path.is_dir()]
    return [path for _, path in sorted(found)]


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint folder; -1 for other names."""
    match = _NAME.match(folder.name)
    return int(match[1]) if match else -1


def run_of(folder: Path) -> str | None:
    """Return the id of the run that wrote a checkpoint; None where the folder does not tell."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_run(output_dir: Path, run_id: str | None) -> list[Path]:
    """Return the checkpoints of one run, oldest step first; those that do not tell their run count too."""
    return [path for path in checkpoints(output_dir) if run_id is None or run_of(path) in (run_id, None)]


def sweep(output_dir: Path) -> None:
    """Delete what saves that died have left behind; put back a checkpoint that was being replaced."""
    for path in output_dir.glob(f"{_TEMPORARY}old-*"):
        place = output_dir / path.name.removeprefix(f"{_TEMPORARY}old-").rpartition("-")[0]
        if not place.exists() and (path / MANIFEST).exists():
            path.rename(place)
    for path in output_dir.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def set_aside(output_dir: Path, folders: list[Path]) -> Path | None:
    """Move checkpoints of an earlier run into `previous-<time>`; return that folder, or None where there are none."""
    if not folders:
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    taken = sum(1 for _ in output_dir.glob(f"previous-{stamp}*"))
    previous = output_dir / (f"previous-{stamp}-{taken}" if taken else f"previous-{stamp}")
    previous.mkdir()
    for folder in folders:
        folder.rename(previous / folder.name)
    return previous


def surplus(output_dir: Path, run_id: str | None, keep: int | None, best: str | None, coming: int = 0) -> list[Path]:
    """Return the oldest checkpoints of a run beyond `keep`, never the best nor the newest.

    Args:
        output_dir: the run's folder.
        run_id: the run.
        keep: how many may stay; None for all.
        best: the best checkpoint so far.
        coming: checkpoints about to be written, which count too.
    """
    present = of_run(output_dir, run_id)
    if keep is None or len(present) + coming <= keep:
        return []
    protected = {present[-1].resolve()} | ({Path(best).resolve()} if best else set())
    return [path for path in present if path.resolve() not in protected][: len(present) + coming - keep]


def delete(folders: list[Path]) -> None:
    """Delete checkpoints: each loses its name first, so that a kill leaves no half of one."""
    for path in folders:
        gone = path.parent / f"{_TEMPORARY}gone-{path.name}-{os.getpid()}"
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
