"""Writing checkpoints behind the loop's back: at most one at a time, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from trainwright.checkpoint import folder
from trainwright.checkpoint.snapshot import HostCopies
from trainwright.errors import SaveError

_SPARE = 1 << 20  # bytes for the small files and the manifest


@dataclass
class Draft:
    """A checkpoint about to be written; small files are in its temporary folder already.

    Attributes:
        place: the folder it is to become.
        run_id: the run that it belongs to.
        temporary: where it is written.
        weights: tensors for `model.safetensors`; None where the temporary folder has the weights already.
        objects: what torch.save writes, by file name.
        keep: `save_total_limit`.
        best: the best checkpoint, which is never deleted.
        copies: holds the snapshot that `weights` and `objects` point into.
        finite: whether each trained parameter is, by name; part of the snapshot.
    """

    place: Path
    run_id: str
    temporary: Path
    weights: dict[str, torch.Tensor] | None = None
    objects: dict[str, Any] = field(default_factory=dict)
    keep: int | None = None
    best: str | None = None
    copies: HostCopies | None = None
    finite: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that the checkpoint needs, roughly."""
        small = sum(path.stat().st_size for path in self.temporary.rglob("*") if path.is_file())
        return (self.copies.size if self.copies is not None else 0) + small + _SPARE


@dataclass
class Written:
    """A checkpoint that exists, and those deleted for it."""

    place: Path
    deleted: list[Path]


class Writer:
    """Writes one draft at a time in a thread of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Written] | None = None

    def start(self, draft: Draft) -> None:
        """Begin to write; the one before must have been collected."""
        self._pending = self._threads.submit(write, draft)

    def collect(self, wait: bool) -> Written | None:
        """Return what was written since; None when nothing is, or is not finished and `wait` is off.

        Raises:
            SaveError: the write failed.
        """
        if self._pending is None or not (wait or self._pending.done()):
            return None
        pending, self._pending = self._pending, None
        return pending.result()

    def close(self) -> None:
        """End the thread, after the write in flight."""
        self._threads.shutdown()


def write(draft: Draft) -> Written:
    """Write a draft, make it a checkpoint, and delete those beyond the limit.

    Raises:
        SaveError: it cannot be written; what was there before is untouched.
    """
    place, temporary = draft.place, draft.temporary
    try:
        if draft.copies is not None:
            draft.copies.ready()
        _refuse_overflow(draft)
        deleted = _make_room(draft)
        if draft.weights is not None:
            save_file(draft.weights, temporary / "model.safetensors", metadata={"format": "pt"})
        for name, value in draft.objects.items():
            with (temporary / name).open("wb") as file:
                torch.save(value, file)
        folder.seal(temporary, draft.run_id)
        folder.publish(temporary, place)
        old = folder.surplus(place.parent, draft.run_id, draft.keep, draft.best)
        folder.delete(old)
        return Written(place, deleted + old)
    except (OSError, SafetensorError) as error:
        raise not_written(place, error, draft.size if temporary.is_dir() else None) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_room(draft: Draft) -> list[Path]:
    """Delete now, where space is short, what the limit would delete afterwards."""
    output, needed = draft.place.parent, draft.size
    deleted = []
    for old in folder.surplus(output, draft.run_id, draft.keep, draft.best, coming=1):
        if shutil.disk_usage(output).free >= needed:
            break
        folder.delete([old])
        deleted.append(old)
    if shutil.disk_usage(output).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return deleted


def _refuse_overflow(draft: Draft) -> None:
    """Leave the earlier checkpoints alone where the parameters are no numbers any more."""
    wrong = [name for name, fine in draft.finite.items() if not fine]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise SaveError(
            f"Checkpoint {draft.place} was not written: the parameters are not finite in {', '.join(wrong[:3])}{more}. "
            "An update overflowed; lower the learning rate, and resume from an earlier checkpoint."
        )


def not_written(place: Path, error: Exception, needed: int | None) -> SaveError:
    """Return the sentence for a save that failed: which, why, and how much space it needs."""
    output = place.parent
    if not output.is_dir():
        return SaveError(f"Checkpoint {place} could not be written: its folder {output} is gone.")
    reason = getattr(error, "strerror", None) or str(error)
    space = f"; it needs {needed / 1e6:.1f} MB" if needed is not None else ""
    return SaveError(
        f"Checkpoint {place} could not be written: {reason} ({shutil.disk_usage(output).free / 1e6:.1f} MB "
        f"free{space}). Earlier checkpoints are untouched."
    )
