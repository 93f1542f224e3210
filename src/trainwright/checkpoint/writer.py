"""Writing checkpoints behind the loop's back: at most one at a time, whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainwright.checkpoint import check, folder
from trainwright.checkpoint.history import Text
from trainwright.checkpoint.layout import AVERAGE, OPTIMIZER, WEIGHTS
from trainwright.checkpoint.output import Doing, Yielding, at_once, write_bytes, write_objects, write_tensors
from trainwright.checkpoint.past import Past
from trainwright.checkpoint.snapshot import HostCopies, mark, size_of
from trainwright.errors import CheckpointError, SaveError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LARGE = (OPTIMIZER, AVERAGE)
_SPARE = 1 << 20  # bytes for the manifest and what else is small


@dataclass
class PendingCheckpoint:
    """A checkpoint about to be written; small files are in its temporary folder already.

    Attributes:
        place: the folder it is to become.
        past: the run that it belongs to, and its checkpoints so far.
        temporary: where it is written.
        weights: tensors for `model.safetensors`; None where the temporary folder has the weights already.
        objects: what torch.save writes, by file name.
        tensors: what further files of safetensors hold, by file name, and the metadata in their headers.
        shared: whether other processes write into the temporary folder too, so that only files of one's own are
            looked at, and flushed to the disk here.
        texts: what other files are to hold.
        keep: `save_total_limit`.
        best: the best checkpoint, which is never deleted.
        copies: holds the snapshot that `weights` and `objects` point into; None where they are the run's own memory,
            so that the loop must wait until they are written.
        finite: whether each trained parameter is, by name; part of the snapshot.
        early: whether an evaluation follows, after which the checkpoint is written again, with what has changed.
        linked: what the manifest says of files that are those of the checkpoint written early.
        doing: does what takes long, piece by piece.
        written: what it says of those written.
        earlier: the thread of the save before, which may still be removing folders; it ends before this one's does.
        deleted: checkpoints that were deleted for this one.
        withdrawn: of these, folders that have no name any more and are yet to be removed.
        problems: what could not be deleted.
    """

    place: Path
    past: Past
    temporary: Path
    _: KW_ONLY
    weights: dict[str, torch.Tensor] | None = None
    objects: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]] = field(default_factory=dict)
    shared: bool = False
    texts: dict[str, Text] = field(default_factory=dict)
    keep: int | None = None
    best: str | None = None
    copies: HostCopies | None = None
    finite: dict[str, torch.Tensor] = field(default_factory=dict)
    early: bool = False
    linked: dict[str, Any] = field(default_factory=dict)
    doing: Doing = at_once

    size: int = field(init=False)  # bytes that the checkpoint needs, roughly
    written: dict[str, Any] = field(default_factory=dict, init=False)
    earlier: threading.Thread | None = field(default=None, init=False)
    deleted: list[Path] = field(default_factory=list, init=False)
    withdrawn: list[Path] = field(default_factory=list, init=False)
    problems: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        small = sum(path.stat().st_size for path in self.temporary.rglob("*") if path.is_file())
        texts = sum(text.size for text in self.texts.values())
        tensors = size_of([tensors for tensors, _ in self.tensors.values()])
        self.size = size_of(self.weights) + size_of(self.objects) + tensors + texts + small + _SPARE

    def marks(self) -> dict[str, Any]:
        """Return a mark of every file that may be large: of the weights, the optimizer and a moving average."""
        large = {WEIGHTS: self.weights, **{name: self.objects.get(name) for name in _LARGE}}
        return {name: mark(content) for name, content in large.items() if content is not None}

    def remove_withdrawn(self) -> None:
        """Remove what was deleted for this checkpoint or for the one before."""
        if self.earlier is not None:
            self.earlier.join()
        while self.withdrawn:
            shutil.rmtree(self.withdrawn.pop(), ignore_errors=True)

    def link(self, early: Written) -> None:
        """Take over the files that are as in the checkpoint written early, so that they are not written again."""
        assert early.marks is not None
        same = [name for name, now in self.marks().items() if early.marks.get(name) == now]
        self.linked = folder.link(early.place, self.temporary, same)
        if WEIGHTS in self.linked:
            self.size -= size_of(self.weights)
            self.weights = None
        for name in self.linked.keys() & self.objects.keys():
            self.size -= size_of(self.objects.pop(name))


@dataclass
class Written:
    """A checkpoint that exists, those deleted for it, what could not be deleted, and, if it is early, its marks."""

    place: Path
    deleted: list[Path]
    problems: list[str]
    marks: dict[str, Any] | None = None


class Writer:
    """Writes one draft at a time in a thread of its own, which lets training have the processor first until somebody
    waits for it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._pending: Future[Written] | None = None
        self._yielding = Yielding()

    def start(self, draft: PendingCheckpoint, work: Callable[[PendingCheckpoint], Written] | None = None) -> None:
        """Begin to write, or to do other work with a draft; the one before must have been collected."""
        self._pending, self._yielding = Future(), Yielding()
        draft.doing, draft.earlier = self._yielding, self._thread
        call = (self._pending, draft, write if work is None else work, self._yielding)
        self._thread = threading.Thread(target=_write_into, args=call, name="checkpoint")
        try:
            self._thread.start()
        except RuntimeError:  # the machine has no thread left
            self._thread = None
            _write_into(*call)

    def collect(self, wait: bool) -> Written | None:
        """Return what was written since; None when nothing is, or is not finished and `wait` is off.

        Raises:
            SaveError: the write failed.
        """
        if self._pending is None or not (wait or self._pending.done()):
            return None
        self._yielding.awaited.set()
        pending, self._pending = self._pending, None
        return pending.result()

    @property
    def done(self) -> bool:
        """Whether no write is going on."""
        return self._pending is None or self._pending.done()

    def close(self) -> BaseException | None:
        """Wait for the write in flight, and until what it deletes is removed; return what it failed of."""
        self._yielding.awaited.set()
        if self._thread is not None:
            self._thread.join()
        return self._pending.exception() if self._pending is not None else None


def _write_into(
    result: Future[Written], draft: PendingCheckpoint, work: Callable[[PendingCheckpoint], Written], yielding: Yielding
) -> None:
    try:
        with yielding:
            written = work(draft)
        result.set_result(written)
    except BaseException as error:
        result.set_exception(error)
    draft.remove_withdrawn()  # behind the next save: it may take as long as writing one


def write(draft: PendingCheckpoint) -> Written:
    """Write a draft, make it a checkpoint that was read again, and withdraw those beyond the limit.

    Raises:
        SaveError: it cannot be written; what was there before is untouched.
    """
    try:
        write_files(draft)
        return publish(draft)
    finally:
        shutil.rmtree(draft.temporary, ignore_errors=True)


def write_files(draft: PendingCheckpoint) -> None:
    """Write the files of a draft, and read them again.

    Raises:
        SaveError: they cannot be written.
    """
    with _told(draft):
        if draft.copies is not None:
            draft.copies.ready()
        _refuse_overflow(draft)
        draft.deleted += _make_room(draft)
        try:
            draft.written |= _write_files(draft)
        except Exception as error:  # a quota that the file system does not tell
            more = _make_room(draft, full=True) if errno_of(error) in _FULL else []
            if not more:
                raise
            draft.written |= _write_files(draft)
            draft.deleted += more
        mine = [draft.temporary / name for name in draft.written] if draft.shared else None
        fault = check.unreadable(draft.temporary, draft.objects, draft.texts, mine)
        if fault is not None:
            raise CheckpointError(f"it could not be read again: {fault}")
        for path in mine or ():
            folder.flush(path)


def publish(draft: PendingCheckpoint) -> Written:
    """Make the files of a draft a checkpoint, and withdraw those beyond the limit, which `remove_withdrawn` removes.

    Raises:
        SaveError: that cannot be done; what was there before is untouched.
    """
    with _told(draft):
        marks = draft.marks() if draft.early else None
        folder.seal(draft.temporary, draft.past.run_id, draft.written, draft.linked)
        folder.publish(draft.temporary, draft.place)
        draft.past.add(draft.place)
    draft.deleted += [] if draft.early else _rotate(draft)
    return Written(draft.place, draft.deleted, draft.problems, marks)


@contextmanager
def _told(draft: PendingCheckpoint) -> Iterator[None]:
    """Raise whatever fails as the sentence of a save that failed."""
    try:
        yield
    except SaveError:
        raise
    except Exception as error:
        raise not_written(draft.place, error, draft.size) from error


def _write_files(draft: PendingCheckpoint) -> dict[str, Any]:
    """Write what is not in the temporary folder yet; return what the manifest says of it."""
    written = {}
    if draft.weights is not None:
        written[WEIGHTS] = write_tensors(draft.weights, draft.temporary / WEIGHTS, doing=draft.doing)
    for name, (tensors, metadata) in draft.tensors.items():
        written[name] = write_tensors(tensors, draft.temporary / name, metadata, draft.doing)
    for name, tree in draft.objects.items():
        written[name] = write_objects(tree, draft.temporary / name, draft.doing)
    for name, text in draft.texts.items():
        written[name] = write_bytes(text, draft.temporary / name, draft.doing)
    return written


def _make_room(draft: PendingCheckpoint, full: bool = False) -> list[Path]:
    """Delete now, where space is short or the disk is known to be full, what the limit would delete afterwards."""
    output = draft.place.parent
    deleted: list[Path] = []
    if full or shutil.disk_usage(output).free < draft.size:
        draft.remove_withdrawn()
    for old in draft.past.expired(draft.keep, draft.best, coming=1):
        if not full and shutil.disk_usage(output).free >= draft.size:
            break
        deleted += _withdraw(old, draft)
        draft.remove_withdrawn()
    if not full and shutil.disk_usage(output).free < draft.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return deleted


def _refuse_overflow(draft: PendingCheckpoint) -> None:
    """Leave the earlier checkpoints alone where the parameters are no numbers any more."""
    wrong = [name for name, fine in draft.finite.items() if not fine]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise SaveError(
            f"Checkpoint {draft.place} was not written: the parameters are not finite in {', '.join(wrong[:3])}{more}. "
            "An update overflowed; lower the learning rate, and resume from an earlier checkpoint."
        )


def _rotate(draft: PendingCheckpoint) -> list[Path]:
    """Withdraw what is beyond the limit, and note what cannot be: the new checkpoint is there, whatever comes of it."""
    try:
        old = draft.past.expired(draft.keep, draft.best)
        if old and draft.earlier is not None:
            draft.earlier.join()  # so that no more than one save's are ever yet to be removed
    except OSError as error:
        draft.problems.append(f"Old checkpoints in {draft.place.parent} could not be deleted: {reason_of(error)}.")
        return []
    return [path for one in old for path in _withdraw(one, draft)]


def _withdraw(old: Path, draft: PendingCheckpoint) -> list[Path]:
    try:
        draft.withdrawn.append(folder.withdraw(old))
    except OSError as error:
        draft.problems.append(f"The old {old.name} could not be deleted: {reason_of(error)}. Delete it by hand.")
        return []
    return [old]


def not_written(place: Path, error: Exception, needed: int | None = None) -> SaveError:
    """Return the sentence for a save that failed: which, why, and how much space it needs; it never fails itself."""
    try:
        os.stat(place.parent)
        free = f"{shutil.disk_usage(place.parent).free / 1e6:.1f} MB free"
    except FileNotFoundError:
        return SaveError(f"Checkpoint {place} could not be written: its folder {place.parent} is gone.")
    except OSError:
        free = "free space unknown"
    space = f"; it needs {needed / 1e6:.1f} MB" if needed is not None else ""
    return SaveError(
        f"Checkpoint {place} could not be written: {reason_of(error)} ({free}{space}). Earlier checkpoints are "
        "untouched."
    )


def errno_of(error: BaseException) -> int | None:
    """Return the number of the system's error that lies behind an error of Python, of torch or of safetensors."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno:
            return behind.errno
        told = re.search(r"\(os error (\d+)\)", str(behind))
        if told is not None:
            return int(told[1])
        behind = behind.__cause__ or behind.__context__
    return None


def reason_of(error: BaseException) -> str:
    """Return in a line why something failed: what the system said, where it did."""
    number = errno_of(error)
    if number is not None:
        return os.strerror(number)
    return (str(error).strip().rstrip(".") or type(error).__name__).splitlines()[0]
