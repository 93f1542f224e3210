"""The random number streams of a process: seeding, saving, restoring. The file is that of transformers."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed python's, numpy's and torch's random numbers, on all devices.

    Args:
        seed: the seed.
        deterministic: also use deterministic algorithms, which may be slower.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
        torch.use_deterministic_algorithms(True)


numpy_random: Any = np.random  # its stubs leave out the two functions that exchange the stream
_INSIDE = np.random.MT19937(0)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the host's three streams from some numbers, and put them back afterwards.

    What is drawn inside depends on the numbers alone: not on what was drawn before, nor on the process. numpy's stream
    is exchanged for another and not copied, which would take longer than all the rest.
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=12).digest()
    python, numpy, cpu = struct.unpack("<3I", digest)
    before, own, before_cpu = random.getstate(), numpy_random.get_bit_generator(), torch.random.get_rng_state()
    numpy_random.set_bit_generator(_INSIDE)
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(cpu)
    try:
        yield
    finally:
        random.setstate(before)
        numpy_random.set_bit_generator(own)
        torch.random.set_rng_state(before_cpu)


def host_states() -> dict[str, Any]:
    """Return the states of the streams of the host: python's, numpy's and torch's."""
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}


def restore_host(streams: dict[str, Any]) -> None:
    """Put the host's streams back to saved states."""
    random.setstate(streams["python"])
    np.random.set_state(streams["numpy"])
    torch.random.set_rng_state(streams["cpu"])


def states() -> dict[str, Any]:
    """Return the states of all streams of this process."""
    streams = host_states()
    if torch.cuda.is_available():
        streams["cuda"] = torch.cuda.random.get_rng_state()
    return streams


def restore(streams: dict[str, Any]) -> None:
    """Put the streams back to saved states."""
    restore_host(streams)
    if torch.cuda.is_available() and "cuda" in streams:
        cuda = streams["cuda"]
        torch.cuda.random.set_rng_state(cuda[torch.cuda.current_device()] if isinstance(cuda, list) else cuda)


def own_states(*owners: Any) -> list[Any]:
    """Return the states of the random generators that some objects keep as attributes, in order."""
    return [_get(generator) for generator in _generators(owners)]


def restore_own(saved: list[Any], *owners: Any) -> None:
    """Put the generators of some objects back to what `own_states` returned."""
    for generator, state in zip(_generators(owners), saved, strict=False):
        _set(generator, state)


def _generators(owners: tuple[Any, ...]) -> list[Any]:
    kinds = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
    found: dict[int, Any] = {}
    for owner in owners:
        for value in getattr(owner, "__dict__", {}).values():
            if isinstance(value, kinds):
                found.setdefault(id(value), value)
    return list(found.values())


def _get(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def file_name(rank: int, size: int) -> str:
    """Return the name of a rank's file in a checkpoint."""
    return "rng_state.pth" if size == 1 else f"rng_state_{rank}.pth"
