"""Files that are summed while they are written, so that nothing is read again for its checksum.

A checksum finds damage; it does not prove who wrote a file. XXH3 finds what a disk does in a fifth of the time that
CRC-32 takes, and a tenth of that of SHA-256, which older manifests have.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fcntl import F_GETFL, F_SETFL, fcntl
from io import FileIO
from mmap import mmap
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xxhash
from safetensors.torch import save_file

from trainwright.checkpoint.archive import write_archive

PIECE = 1 << 22  # bytes
_SMALL = 1 << 16  # bytes of a piece that is done sooner than handed to another thread
_NICENESS = 10  # a tenth of the processor, where others want it as well
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h
_METADATA = {"format": "pt"}
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Crc32:
    """CRC-32 in the form of hashlib."""

    def __init__(self) -> None:
        self._sum = 0

    def update(self, data: Any) -> None:
        """Add bytes."""
        self._sum = zlib.crc32(data, self._sum)

    def hexdigest(self) -> str:
        """Return the sum of all so far."""
        return f"{self._sum:08x}"


ALGORITHMS: dict[str, Callable[[], Any]] = {"xxh3": xxhash.xxh3_128, "crc32": Crc32, "sha256": hashlib.sha256}
NEWEST = "xxh3"
Doing = Callable[[Callable[[memoryview], None], memoryview], None]
"""Does a piece of work, here or elsewhere, and returns when it is done."""


def at_once(work: Callable[[memoryview], None], piece: memoryview) -> None:
    """Do a piece of work in the thread that asks for it."""
    work(piece)


class Yielding:
    """Does work in a thread of low priority, so that training comes first where processors are few, until somebody
    waits for its end: from then on where it is asked for, since no thread may raise its own priority again.

    Attributes:
        awaited: set once somebody waits.
    """

    def __init__(self) -> None:
        self.awaited = threading.Event()
        self._low = ThreadPoolExecutor(1, "checkpoint-pieces", _lower_priority)

    def __enter__(self) -> Yielding:
        return self

    def __exit__(self, *raised: object) -> None:
        self._low.shutdown(wait=False)

    def __call__(self, work: Callable[[memoryview], None], piece: memoryview) -> None:
        """Do a piece of work."""
        if len(piece) > _SMALL and not self.awaited.is_set():
            try:
                doing = self._low.submit(work, piece)
            except RuntimeError:  # the machine has no thread left, or the process ends
                self.awaited.set()
            else:
                doing.result()
                return
        work(piece)


def _lower_priority() -> None:
    if sys.platform == "linux":  # where it is the thread's; elsewhere it would be the whole process's
        os.nice(_NICENESS)


def _hint() -> Callable[[int, int, int, int], int]:
    """Return Linux's `sync_file_range`, which Python does not name; elsewhere what does nothing."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError, TypeError):
        return lambda descriptor, offset, size, flags: 0
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast(Callable[[int, int, int, int], int], call)


_sync_file_range = _hint()


def begin_flush(descriptor: int) -> None:
    """Have the system begin to bring what was written into a file to the disk, and do not wait.

    So the disk works while the next pieces are summed, and a flush finds little left. Nothing rests on it: where the
    file system does not know it, or the disk fails, the flush that follows does the whole and says what went wrong.
    """
    _sync_file_range(descriptor, 0, 0, _WRITE)


class Output:
    """A new file, open for writing, with its size and checksum; what is written is summed and written in pieces, as
    `doing` says.

    A file of more than one piece that lies on a disk of this machine is written past the system's cache (O_DIRECT):
    that takes less of the processor, which training needs, and leaves the cache to the data. The end of a file, and all
    of it elsewhere, goes through the cache, and is on its way to the disk while the next piece is summed.
    """

    def __init__(self, path: Path, doing: Doing = at_once) -> None:
        self._file = path.open("wb", buffering=0)
        self._doing = doing
        self._sum = ALGORITHMS[NEWEST]()
        self._size = 0
        self._gathered = memoryview(mmap(-1, PIECE))  # which begins where a page does, as O_DIRECT wants it
        self._filled = 0
        self._may_be_direct = _lies_on_disk(self._file)
        self._is_direct = False

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            if raised[0] is None:
                self._put_gathered()
        finally:
            self._file.close()

    def write(self, data: Any) -> int:
        """Write bytes, all of them."""
        whole, start = memoryview(data), 0
        while start < len(whole):
            part = whole[start : start + PIECE - self._filled]
            self._doing(self._take, part)
            start += len(part)
        return len(whole)

    def _take(self, part: memoryview) -> None:
        if len(part) > _SMALL and not self._may_be_direct:
            self._put_gathered()
            self._put(part)
            return
        into = np.frombuffer(self._gathered, np.uint8, len(part), self._filled)
        np.copyto(into, np.frombuffer(part, np.uint8))  # without Python's lock, which an assignment would hold
        self._filled += len(part)
        if self._filled == PIECE:
            self._put_gathered()

    def _put_gathered(self) -> None:
        filled, self._filled = self._filled, 0
        self._put(self._gathered[:filled])

    def _put(self, piece: memoryview) -> None:
        self._sum.update(piece)
        self._size += len(piece)
        self._go_direct(self._may_be_direct and len(piece) == PIECE)
        while piece:
            piece = piece[self._written(piece) :]
            if piece:  # which may begin where no block does
                self._may_be_direct = False
                self._go_direct(False)
        begin_flush(self._file.fileno())

    def _written(self, piece: memoryview) -> int:
        try:
            return self._file.write(piece)
        except OSError as error:
            if not self._is_direct or error.errno != errno.EINVAL:
                raise
            return 0  # some file systems refuse here only

    def _go_direct(self, on: bool) -> None:
        """Begin or cease to write past the system's cache, where the file system can."""
        if on == self._is_direct:
            return
        flags = fcntl(self._file, F_GETFL)
        try:
            fcntl(self._file, F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
            self._is_direct = on
        except OSError as error:
            if not on or error.errno != errno.EINVAL:
                raise
            self._may_be_direct = False

    def flush(self) -> None:
        """Do nothing: what is held back is not whole yet; torch.save and others call it."""

    def entry(self) -> dict[str, Any]:
        """Return what a manifest says of the file, when it is closed."""
        return {"size": self._size, NEWEST: self._sum.hexdigest()}


def _lies_on_disk(file: FileIO) -> bool:
    """Whether a file lies on a disk of this machine, as none does in networks, in layers of containers or in memory:
    there each write past the cache waits for much, or there is none."""
    return hasattr(os, "O_DIRECT") and os.major(os.fstat(file.fileno()).st_dev) != 0


def summed(path: Path, algorithm: str = NEWEST, tell: Callable[[float], None] = lambda more: None) -> dict[str, Any]:
    """Return what a manifest says of a file that is there; `tell` is told of every piece how many megabytes it has."""
    size, found = 0, ALGORITHMS[algorithm]()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            found.update(piece)
            size += len(piece)
            tell(len(piece) / 1e6)
    return {"size": size, algorithm: found.hexdigest()}


def write_objects(tree: Any, path: Path, doing: Doing = at_once) -> dict[str, Any]:
    """Write what torch.load reads, an archive that every reader of zip files can test; return what a manifest says of
    it."""
    with Output(path, doing) as output:
        write_archive(tree, output)
    return output.entry()


def write_tensors(
    tensors: dict[str, torch.Tensor],
    path: Path,
    metadata: dict[str, str] | None = None,
    doing: Doing = at_once,
) -> dict[str, Any]:
    """Write a file of safetensors, straight from the tensors' memory; return what a manifest says of it.

    The format: 8 bytes of header length, the header as JSON, the tensors' bytes, those of wide numbers first so that
    each lies at a multiple of its size. What has no memory of this kind is left to the library.
    """
    about = {**_METADATA, **(metadata or {})}
    if not all(_is_plain(tensor) for tensor in tensors.values()):
        save_file(tensors, path, metadata=about)
        return summed(path)
    header: dict[str, Any] = {"__metadata__": about}
    names, end = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)), 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with Output(path, doing) as output:
        output.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            output.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return output.entry()


def write_bytes(pieces: Iterable[bytes], path: Path, doing: Doing = at_once) -> dict[str, Any]:
    """Write pieces of bytes one after another; return what a manifest says of the file."""
    with Output(path, doing) as output:
        for piece in pieces:
            output.write(piece)
    return output.entry()


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor's bytes are what safetensors keeps of it."""
    kinds = (torch.Tensor, torch.nn.Parameter)
    return type(tensor) in kinds and tensor.layout is torch.strided and tensor.dtype in _DTYPES
