"""What a job's processes take of the machine, looked at now and then by the job's own thread: series `system/...`.

Their steps are seconds that the job has run, all attempts together, so that they go on where the one before ended.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

EVERY_SECONDS = 15.0
_GB = 1e9
_QUERY = "--query-gpu=index,utilization.gpu,memory.used"
_SMI_SECONDS = 5.0  # that nvidia-smi is waited for


class Sampler:
    """Tells a job what its process, and those that this one began, take.

    Args:
        folder: on the disk that matters.
        tell: is told name, value and step.
    """

    def __init__(self, folder: Path, tell: Callable[[str, float, int], Any]) -> None:
        self._folder = folder
        self._tell = tell
        self._process = psutil.Process()
        self._began = self._looked = time.monotonic()
        self._cpu = self._cpu_seconds([self._process])
        self._ran: float | None = None

    def look(self, ran: Callable[[], float]) -> None:
        """Take a sample where it is time for one.

        Args:
            ran: returns for how many seconds attempts before have run; asked once.
        """
        now = time.monotonic()
        if now - self._looked < EVERY_SECONDS:
            return
        passed, self._looked = now - self._looked, now
        if self._ran is None:
            self._ran = ran()
        step = int(self._ran + now - self._began)
        for name, value in self._figures(passed):
            self._tell(f"system/{name}", value, step)

    def _figures(self, passed: float) -> Iterator[tuple[str, float]]:
        with suppress(psutil.Error, OSError):
            tree = [self._process, *self._process.children(recursive=True)]
            cpu = self._cpu_seconds(tree)
            yield "cpu_percent", 100 * max(cpu - self._cpu, 0.0) / passed
            self._cpu = cpu
            yield "memory_gb", sum(_memory(one) for one in tree) / _GB
            yield "host_memory_percent", psutil.virtual_memory().percent
        with suppress(OSError):
            yield "disk_free_gb", shutil.disk_usage(self._folder).free / _GB
        for number, percent, used in _cards():
            yield f"gpu{number}_percent", percent
            yield f"gpu{number}_memory_gb", used / _GB

    def _cpu_seconds(self, tree: list[psutil.Process]) -> float:
        """Return the seconds of processors that a process has used, with those of its children that have ended."""
        own = self._process.cpu_times()
        seconds = own.children_user + own.children_system
        for one in tree:
            with suppress(psutil.Error):
                times = one.cpu_times()
                seconds += times.user + times.system
        return float(seconds)


def _memory(process: psutil.Process) -> int:
    """Return the bytes of memory of a process; pages that several share count for each."""
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _cards() -> Iterator[tuple[int, float, float]]:
    """Yield number, percentage of the time that it computed, and bytes in use, of every NVIDIA card."""
    nvml = _nvml()
    if nvml is not None:
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            used = nvml.nvmlDeviceGetMemoryInfo(handle).used
            yield number, float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu), float(used)
    elif (program := _smi()) is not None:
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            command = [program, _QUERY, "--format=csv,noheader,nounits"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True).stdout
            for line in said.splitlines():
                card, percent, memory = line.split(",")
                yield int(card), float(percent), float(memory) * 2**20


@cache
def _nvml() -> Any:
    """Return NVIDIA's library where it is installed and finds its driver; else None."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except Exception:  # its errors are classes of its own, and nothing about a card is worth a job
        return None
    return pynvml


@cache
def _smi() -> str | None:
    return shutil.which("nvidia-smi")
