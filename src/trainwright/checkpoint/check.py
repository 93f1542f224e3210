"""Whether a checkpoint folder is whole, and which one a run goes on from."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.checkpoint import folder as folders
from trainwright.checkpoint.folder import MANIFEST

STATE = "trainer_state.json"


@dataclass(frozen=True)
class Damage:
    """Why a folder cannot be used as a checkpoint."""

    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.folder.name}: {self.reason}"


def damage(folder: Path) -> Damage | None:
    """Return what is wrong with a checkpoint, or None when every file is as the manifest says.

    A folder without a manifest (transformers' own) is looked at file by file: JSON must parse, weights and archives
    must be of the length that their headers give.
    """
    ours = (folder / MANIFEST).exists() or (folder / folders.RUN_FILE).exists()
    reason = _against_manifest(folder) if ours else _by_structure(folder)
    return None if reason is None else Damage(folder, reason)


def _against_manifest(folder: Path) -> str | None:
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = content.pop("sha256") == folders.digest(content)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    if not whole:
        return f"{MANIFEST} has other contents than were written"
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['size']}"
        if folders.checksum(path) != expected["sha256"]:
            return f"{name} has other contents than were written"
    return None


def _by_structure(folder: Path) -> str | None:
    if not (folder / STATE).is_file():
        return f"{STATE} is missing"
    names = {path.name for path in folder.iterdir()}
    if not any(name.endswith(".safetensors") for name in names):
        return "model.safetensors is missing"
    resumable = {"optimizer.pt", "scheduler.pt"}
    if names & resumable and resumable - names:
        return f"{(resumable - names).pop()} is missing"
    checks = {".json": _json_fault, ".safetensors": _safetensors_fault, ".pt": _archive_fault, ".pth": _archive_fault}
    for path in sorted(folder.iterdir()):
        check = checks.get(path.suffix)
        fault = check(path) if check is not None and path.is_file() else None
        if fault is not None:
            return f"{path.name} {fault}"
    return None


def _json_fault(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"is not JSON ({error})"
    return None


def _safetensors_fault(path: Path) -> str | None:
    """Compare the length of the file with its header: 8 bytes of header length, the header, the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if not 0 < length <= size - 8:
            return "has no header of safetensors"
        try:
            header = json.loads(file.read(length))
            end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "has no header of safetensors"
    return None if size == 8 + length + end else f"has {size} bytes instead of {8 + length + end}"


def _archive_fault(path: Path) -> str | None:
    """Check the archive that torch.save writes, and the checksum of every record in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"is not a whole archive of torch.save ({error})"
    return None if broken is None else f"has a damaged record {broken}"


def newest_valid(output_dir: Path) -> tuple[Path | None, list[Damage]]:
    """Return the newest whole checkpoint, of the run that wrote last, and what is wrong with those passed over."""
    passed_over: list[Damage] = []
    present = folders.checkpoints(output_dir)
    run_id = next((run for path in reversed(present) if (run := folders.run_of(path)) is not None), None)
    for folder in reversed(folders.of_run(output_dir, run_id)):
        fault = damage(folder)
        if fault is None:
            return folder, passed_over
        passed_over.append(fault)
    return None, passed_over
