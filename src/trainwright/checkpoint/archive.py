"""Archives as torch.save writes them, whose checksums are computed by instructions that the processor has for that.

A zip file has a CRC-32 of every record. torch's own takes more of the processor than all else that a thread does to
write a checkpoint; isal's takes a tenth of it. So torch's writer lays the archive out and leaves the sums at zero, and
they are put in on the way to the file: behind each record, and in the directory at the end.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import zipfile
from typing import IO, Any, cast

import torch
from torch.serialization import DEFAULT_PROTOCOL
from torch.utils.serialization import config

try:
    from isal import isal_zlib

    crc32: Any = isal_zlib.crc32
except ImportError:  # there is none for this machine
    crc32 = None

_BEHIND = b"PK\x07\x08"  # begins what stands behind a record: CRC-32, and its size twice
_LISTED = b"PK\x01\x02"  # begins an entry of the directory
_GATHERED = 1 << 16  # bytes, up to which pieces are written together


def write_archive(tree: Any, file: Any) -> None:
    """Write what torch.load reads, as torch.save does, into a file that has `write` and `flush`."""
    if _knows_torch():
        _write(tree, file)
    else:
        torch.save(tree, cast(IO[bytes], file))


def _write(tree: Any, file: Any) -> None:
    archive = _Archive(file)
    torch.serialization._save(tree, archive, pickle, DEFAULT_PROTOCOL, False)
    archive.close()


@functools.cache
def _knows_torch() -> bool:
    """Whether this torch writes archives in the way that is relied on: a small one must be as torch.save's, but for a
    number that is derived from the sums, and its sums right."""
    if crc32 is None:
        return False
    tree, ours, theirs = {"a": torch.arange(30), "none": torch.empty(0)}, io.BytesIO(), io.BytesIO()
    torch.save(tree, theirs)
    try:
        _write(tree, ours)
    except Exception:  # whatever has become of what is private to torch
        return False
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as other:
        same = all(one.read(name) == other.read(name) for name in other.namelist() if not name.endswith("_id"))
        return same and one.namelist() == other.namelist() and one.testzip() is None


class _Archive:
    """What torch's writer writes into, and what gives it the records, one at a time; small pieces are gathered."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._sums: list[int] = []
        self._held: list[bytes] = []  # pieces that are not written yet, the newest among them unless it is large
        self._size = 0  # of these
        self._ends = False
        self._writer = torch._C.PyTorchFileWriter(cast(IO[bytes], self), False, config.save.storage_alignment)

    def write(self, piece: Any) -> int:
        """Take a piece; what follows the records is held until it is whole."""
        size = len(piece)
        if self._size + size > _GATHERED and not self._ends:
            self._write_held()
        if size > _GATHERED and not self._ends:
            self._file.write(piece)
        else:
            self._held.append(bytes(piece))
            self._size += size
        return size

    def flush(self) -> None:
        """Do nothing: what is held back is not finished."""

    def write_record(self, name: str, content: Any, size: int) -> None:
        """Add a record: text, bytes, or a storage of torch's on the host."""
        self._sums.append(_sum_of(content))
        self._writer.write_record(name, content, size)
        if size:
            self._held[-1] = _summed(self._held[-1], self._sums[-1])

    def close(self) -> None:
        """Write what follows the records: two of torch's own, and the directory."""
        self._write_held()
        self._ends = True
        self._writer.write_end_of_file()
        for number, piece in enumerate(self._held):
            if piece.startswith(_BEHIND):
                self._sums.append(_sum_of(self._held[number - 1]))
                self._held[number] = _summed(piece, self._sums[-1])
            elif piece.startswith(_LISTED):
                self._held[number] = _listed(piece, self._sums)
        self._write_held()

    def _write_held(self) -> None:
        if self._held:
            self._file.write(b"".join(self._held))
        self._held, self._size = [], 0


def _sum_of(content: Any) -> int:
    if isinstance(content, torch.UntypedStorage):
        content = torch.empty(0, dtype=torch.uint8).set_(content).numpy()
    number: int = crc32(content.encode() if isinstance(content, str) else content)
    return number


def _summed(behind: bytes, number: int) -> bytes:
    """Return what stands behind a record with its sum.

    Raises:
        ValueError: it is none, or has a sum already.
    """
    if not behind.startswith(_BEHIND + bytes(4)):
        raise ValueError(f"torch {torch.__version__} writes archives in another way.")
    return behind[:4] + struct.pack("<I", number) + behind[8:]


def _listed(directory: bytes, sums: list[int]) -> bytes:
    """Return the directory with the sums of its entries, which are in the order of the records.

    Raises:
        ValueError: it has other entries.
    """
    whole, place = bytearray(directory), 0
    for number in sums:
        if not whole.startswith(_LISTED, place):
            break
        struct.pack_into("<I", whole, place + 16, number)
        place += 46 + sum(struct.unpack_from("<HHH", whole, place + 28))
    if place != len(whole):
        raise ValueError(f"torch {torch.__version__} writes archives in another way.")
    return bytes(whole)
