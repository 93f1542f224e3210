"""Frames of videos, decoded by PyAV where they are asked for: every process, so every worker of a loader, has decoders
and a cache of its own."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.errors import DataError

_KEPT = 256_000_000  # bytes of frames, of a process
_OPEN = 8  # files, of a process


@dataclass(frozen=True)
class Frames:
    """The frames of an episode, in place of an array of shape (steps, height, width, channels): an array of moments
    gives those, as uint8.

    Attributes:
        file: the video, which other episodes may have their frames in too.
        numbers: shape (steps,): which frame of the file each moment's is.
        rate: frames a second.
        shape: (steps, height, width, 3).
    """

    file: Path
    numbers: np.ndarray
    rate: float
    shape: tuple[int, int, int, int]
    dtype: Any = np.dtype(np.uint8)
    ndim: int = 4

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all frames, as numpy asks for them."""
        return self[np.arange(len(self))].astype(dtype or self.dtype)

    def __getitem__(self, moments: Any) -> np.ndarray:
        """Return the frames of some moments; shape (moments, height, width, 3).

        Raises:
            DataError: the file ends before them.
        """
        wanted: list[int] = self.numbers[moments].tolist()
        return np.stack(_decoders(os.getpid()).frames(self.file, self.rate, wanted))


def frames_at(file: Path, seconds: np.ndarray, rate: float) -> Frames:
    """Return the frames that a video shows at some times.

    Args:
        seconds: shape (steps,), from the file's beginning.
        rate: frames a second.

    Raises:
        DataError: PyAV is not installed, or the file is no video.
    """
    av = _library(file)
    try:
        with av.open(str(file)) as content:
            stream = content.streams.video[0]
            size = stream.height, stream.width
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"The video '{file}' cannot be read: {error}") from error
    return Frames(file, np.rint(seconds * rate).astype(np.int64), rate, (len(seconds), *size, 3))


def _library(file: Path) -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{file}' is a video, which the package 'av' (PyAV) decodes: pip install av. Images are read without it, "
            "as arrays or as files within the parquet files (LeRobot writes them with use_videos=False)."
        ) from error
    return av


@cache
def _decoders(process: int) -> Decoders:
    """Return those of a process: a decoder that was forked would be at the place where its twin is."""
    return Decoders()


class Decoders:
    """Open videos, and the frames that were decoded last: those that were asked for, and those on the way to them."""

    def __init__(self) -> None:
        self.open: OrderedDict[Path, Decoder] = OrderedDict()
        self.kept: OrderedDict[tuple[Path, int], np.ndarray] = OrderedDict()
        self.size = 0

    def frames(self, file: Path, rate: float, numbers: list[int]) -> list[np.ndarray]:
        """Return some frames of a file."""
        return [self._frame(file, rate, number) for number in numbers]

    def _frame(self, file: Path, rate: float, number: int) -> np.ndarray:
        key = file, number
        if key not in self.kept:
            if file not in self.open:
                self.open[file] = Decoder(file, rate)
            self.open.move_to_end(file)
            for found, frame in self.open[file].up_to(number):
                self._keep((file, found), frame)
            while len(self.open) > _OPEN:
                self.open.popitem(last=False)[1].content.close()
        self.kept.move_to_end(key)
        return self.kept[key]

    def _keep(self, key: tuple[Path, int], frame: np.ndarray) -> None:
        if key not in self.kept:
            self.size += frame.nbytes
        self.kept[key] = frame
        self.kept.move_to_end(key)
        while self.size > _KEPT and len(self.kept) > 1:
            self.size -= self.kept.popitem(last=False)[1].nbytes


class Decoder:
    """An open video, and the place where it is."""

    def __init__(self, file: Path, rate: float) -> None:
        self.file, self.rate = file, rate
        self.content = _library(file).open(str(file))
        self.stream = self.content.streams.video[0]
        self.coming: Iterator[Any] = iter(())
        self.place: int | None = None

    def up_to(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield frames with their numbers, that of `number` as the last: from where the decoder is, if that is less
        than a second before, else from the last frame before it that needs no other.

        Raises:
            DataError: there is no such frame.
        """
        if self.place is None or not self.place < number <= self.place + self.rate:
            self.content.seek(int(number / self.rate / self.stream.time_base), stream=self.stream)
            self.coming, self.place = iter(self.content.decode(self.stream)), None
        for frame in self.coming:
            self.place = round(float(frame.time) * self.rate)
            yield self.place, frame.to_ndarray(format="rgb24")
            if self.place >= number:
                break
        if self.place != number:
            raise DataError(f"The video '{self.file}' has no frame {number} ({number / self.rate:.3f} s).")
