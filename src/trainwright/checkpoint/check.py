"""Whether a checkpoint folder is whole, and which one a run goes on from."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.bars import counting
from trainwright.checkpoint import folder as folders
from trainwright.checkpoint import layout
from trainwright.checkpoint.layout import MANIFEST, OLDER_WEIGHTS, STATE
from trainwright.checkpoint.output import ALGORITHMS, summed
from trainwright.checkpoint.sharded.plan import owners
from trainwright.errors import CheckpointError
from trainwright.state import TrainerState


@dataclass(frozen=True)
class CorruptCheckpoint:
    """Why a folder cannot be used as a checkpoint."""

    folder: Path
    reason: str

    def __str__(self) -> str:
        name = self.folder.name
        return f"{name if name.isprintable() else repr(name)}: {self.reason}"


def damage(folder: Path, share: layout.Share = layout.Share()) -> CorruptCheckpoint | None:
    """Return what is wrong with a checkpoint, or None when it can be resumed from.

    Several processes may look at it together, so that each file is read by one of them: `share` tells which this is.

    Every file must be as the manifest says. A folder without a manifest (transformers' own) is looked at file by file:
    JSON must parse, weights and archives must be of the length that their headers give. In either, what a resumed run
    reads must be readable.
    """
    try:
        ours = (folder / MANIFEST).exists() or (folder / layout.RUN).exists()
        if share.index:
            reason = _against_manifest(folder, share) if ours else None
        else:
            reason = (_against_manifest(folder, share) if ours else _by_structure(folder)) or unreadable(folder)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
    return None if reason is None else CorruptCheckpoint(folder, reason)


Look = Callable[[Path], CorruptCheckpoint | None]  # what is wrong with a checkpoint


def unreadable(
    folder: Path, names: Iterable[str] = (), but: Iterable[str] = (), among: Iterable[Path] | None = None
) -> str | None:
    """Read what a resumed run reads, and files of objects besides, but for the contents of tensors.

    Args:
        folder: a checkpoint.
        names: of the files of objects.
        but: files that are not read.
        among: the files that are looked at; by default all in the folder.

    Returns:
        What cannot be read, or None.
    """
    for path in sorted(path for path in among or folder.iterdir() if path.name not in but):
        if path.name in (STATE, layout.RUN):
            fault = _object_fault(path)
        elif path.suffix == ".safetensors":
            fault = _safetensors_fault(path)
        else:
            fault = _pickle_fault(path) if path.name in names or layout.holds_objects(path.name) else None
        if fault is not None:
            return f"{path.name} {fault}"
    return None


def _against_manifest(folder: Path, share: layout.Share) -> str | None:
    try:
        files = folders.manifest(folder)["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except ValueError as error:
        return f"{MANIFEST} {error}"
    reader = owners({name: one["size"] for name, one in files.items()}, share.count)
    mine = {name: one for name, one in {STATE: {}, **files}.items() if reader.get(name, 0) == share.index}
    megabytes = round(sum(one.get("size", 0) for one in mine.values()) / 1e6)
    with counting(megabytes, f"MB of {folder.name} checked") as tell:
        for name, expected in mine.items():
            fault = _file_fault(folder / name, expected, tell)
            if fault is not None:
                return f"{name} {fault}"
    return None


def _file_fault(path: Path, expected: dict[str, Any], tell: Callable[[float], None]) -> str | None:
    """Return how a file differs from what a manifest says of it, or None; `tell` is told of megabytes."""
    if not expected or not path.exists():
        return "is missing"
    if not path.is_file():
        return "is not a file"
    if path.stat().st_size != expected["size"]:
        return f"has {path.stat().st_size} bytes instead of {expected['size']}"
    algorithm = next(name for name in ALGORITHMS if name in expected)
    if summed(path, algorithm, tell)[algorithm] != expected[algorithm]:
        return "has other contents than were written"
    return None


def _by_structure(folder: Path) -> str | None:
    if not (folder / STATE).is_file():
        return f"{STATE} is missing"
    for path in folder.iterdir():
        if not (path.is_file() or path.is_dir()):
            return f"{path.name} is not a file"
    names = {path.name for path in folder.iterdir()}
    present = [*folder.iterdir(), *folder.glob("*/adapter_model.*")]
    if not any(path.suffix == ".safetensors" or OLDER_WEIGHTS.fullmatch(path.name) for path in present):
        if any(folder.glob("*/.metadata")):
            return f"its shards are torch's; `trainwright checkpoint convert {folder} FOLDER` writes them for a resume"
        return f"{layout.WEIGHTS} is missing"
    resumable = {layout.OPTIMIZER, layout.SCHEDULER}
    if names & resumable and resumable - names:
        return f"{(resumable - names).pop()} is missing"
    checks = {".json": _json_fault, ".safetensors": _safetensors_fault, ".pt": _archive_fault, ".pth": _archive_fault}
    for path in sorted(present):
        check = _pickle_fault if OLDER_WEIGHTS.fullmatch(path.name) else checks.get(path.suffix)
        fault = check(path) if check is not None and path.is_file() else None
        if fault is not None:
            return f"{path.name} {fault}"
    return None


def _json_fault(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    return None


def _object_fault(path: Path) -> str | None:
    try:
        if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
            return "is no object of JSON"
        if path.name == STATE:
            TrainerState.load_from_json(path)
    except (ValueError, TypeError, RecursionError) as error:
        return f"cannot be read ({error})"
    return None


def _pickle_fault(path: Path) -> str | None:
    try:
        try:
            folders.unpickled(path, device="meta")
        except NotImplementedError:  # torch 2.15 looks into sparse tensors
            folders.unpickled(path)
    except Exception as error:
        return f"cannot be read ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
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
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
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


def newest_valid(output_dir: Path, look: Look = damage) -> tuple[Path | None, list[CorruptCheckpoint]]:
    """Return the newest whole checkpoint, of the run that wrote last, and what `look` finds wrong with those passed
    over."""
    passed_over = [CorruptCheckpoint(path, "its name is not checkpoint-<step>") for path in layout.misnamed(output_dir)]
    present = layout.checkpoints(output_dir)
    run_id = next((run for path in reversed(present) if (run := folders.run_of(path)) is not None), None)
    for folder in reversed(present):
        if not folders.is_of_run(folder, run_id):
            continue
        fault = look(folder)
        if fault is None:
            return folder, passed_over
        passed_over.append(fault)
    return None, passed_over


def choose(output: Path, wanted: str | Path | bool, look: Look = damage) -> tuple[Path, list[CorruptCheckpoint]]:
    """Return the checkpoint to go on from (the newest whole one for True, the one named for a path), and what `look`
    finds wrong with those that were passed over.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not isinstance(wanted, bool):
        return _named(Path(wanted), look), []
    chosen, passed_over = newest_valid(output, look)
    if chosen is None:
        what = f"all are damaged ({'; '.join(map(str, passed_over))})" if passed_over else "there is none"
        raise CheckpointError(
            f"No checkpoint to resume from in '{output}': {what}. Start anew with train(), on a command line with "
            "--overwrite, or give another output_dir."
        )
    return chosen, passed_over


def _named(chosen: Path, look: Look) -> Path:
    if not chosen.is_dir():
        raise CheckpointError(f"resume_from_checkpoint='{chosen}' is not a folder; give a checkpoint-<step> folder.")
    fault = look(chosen)
    if fault is not None:
        inside = layout.checkpoints(chosen)
        hint = f" Did you mean '{inside[-1]}'?" if inside else " Give another one, or True for the newest whole one."
        raise CheckpointError(f"Cannot resume from '{chosen}': {fault.reason}.{hint}")
    return chosen
