"""How fast a run is: tokens per second on a device, and the share of what the device could compute (MFU).

The share is that of Chowdhery et al. 2022 (arXiv:2204.02311, appendix B): the operations that a model needs, without
those that are done again to save memory, by those that the device does at its best.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """The most operations of a device in a second, in 10¹²: dense products of matrices, as its maker names it; not yet
    checked against data sheets.

    Attributes:
        name: words of the device's name.
        half: of float16 and bfloat16, summed in float32; of float16 alone where it has no bfloat16.
        tf32: of float32 that is rounded to TensorFloat-32; None where the device has none.
        single: of float32.
        has_bfloat16: whether it has that format.
    """

    name: str
    half: float
    tf32: float | None
    single: float
    has_bfloat16: bool = True


PEAKS = (  # the first whose name is in the device's, so the longer ones come first
    Peak("GB200", 2500, 1250, 80),
    Peak("B200", 2250, 1100, 75),
    Peak("GH200", 989.5, 494.7, 67),
    Peak("H200 NVL", 835.5, 417.5, 60),
    Peak("H200", 989.5, 494.7, 67),
    Peak("H100 PCIe", 756, 378, 51),
    Peak("H100 NVL", 835.5, 417.5, 60),
    Peak("H100", 989.5, 494.7, 67),
    Peak("H800 PCIe", 756, 378, 51),
    Peak("H800", 989.5, 494.7, 67),
    Peak("H20", 148, 74, 44),
    Peak("A100", 312, 156, 19.5),
    Peak("A800", 312, 156, 19.5),
    Peak("A40", 149.7, 74.8, 37.4),
    Peak("A30", 165, 82, 10.3),
    Peak("A10", 125, 62.5, 31.2),
    Peak("RTX A6000", 154.8, 77.4, 38.7),
    Peak("L40S", 362, 183, 91.6),
    Peak("L40", 181, 90.5, 90.5),
    Peak("L4", 121, 60, 30.3),
    Peak("RTX 5090", 209.5, 104.8, 104.8),
    Peak("RTX 4090", 165.2, 82.6, 82.6),
    Peak("RTX 3090", 71, 35.6, 35.6),
    Peak("V100-PCIE", 112, None, 14, has_bfloat16=False),
    Peak("V100", 125, None, 15.7, has_bfloat16=False),
    Peak("T4", 65, None, 8.1, has_bfloat16=False),
    Peak("MI355X", 2516, None, 157.3),
    Peak("MI325X", 1307.4, 653.7, 163.4),
    Peak("MI300X", 1307.4, 653.7, 163.4),
    Peak("MI250X", 383, None, 47.9),
)


def peak_operations(device: torch.device, kind: torch.dtype) -> float | None:
    """Return the most operations that a device does in a second with a number format; None where that is not known.

    Args:
        device: of this machine.
        kind: in which matrices are multiplied.
    """
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), kind, torch.backends.cuda.matmul.allow_tf32)


def peak_of(name: str, kind: torch.dtype, rounds: bool) -> float | None:
    """Return the most operations in a second of a device by its name; `rounds`: float32 to TensorFloat-32."""
    found = next((one for one in PEAKS if re.search(rf"\b{one.name}\b(?! (?:Ti|D|Laptop)\b)", name)), None)
    if found is None or (kind == torch.bfloat16 and not found.has_bfloat16):
        return None
    if kind.itemsize == 2:
        return found.half * 1e12
    if kind != torch.float32:
        return None
    return (found.tf32 if rounds and found.tf32 else found.single) * 1e12


@dataclass
class Throughput:
    """Counts what a run computes, between its logs; all ranks know the sums.

    Attributes:
        peak: of one device, in operations per second; None where nothing is counted.
        devices: that compute.
        operations: that a model needs, since the last log.
        before: those until the last log.
        tokens: without padding, since the last log.
        seconds: of training at the last log.
    """

    peak: float | None = None
    devices: int = 1
    operations: float = 0.0
    before: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, operations: float, tokens: float) -> None:
        """Count a step of all ranks."""
        self.operations += operations
        self.tokens += tokens

    def read(self, seconds: float) -> dict[str, float]:
        """Return what a log tells of the time since the one before, and begin anew.

        Args:
            seconds: that were spent with training until now; the device has done all of it.
        """
        passed, self.seconds = seconds - self.seconds, seconds
        operations, tokens, self.operations, self.tokens = self.operations, self.tokens, 0.0, 0.0
        self.before += operations
        if self.peak is None or not operations or passed <= 0:
            return {}
        each = passed * self.devices
        return {"mfu": operations / (each * self.peak), "tokens_per_second_per_device": tokens / each}

    def of_run(self, seconds: float) -> float | None:
        """Return the share of the devices' best over so many seconds of training; None where nothing was counted."""
        operations = self.before + self.operations
        return operations / (seconds * self.devices * self.peak) if self.peak is not None and operations else None
