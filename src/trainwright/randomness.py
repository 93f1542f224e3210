"""The random number streams of a process: seeding, saving, restoring. The file is that of transformers."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import random
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from trainwright import devices
from trainwright.held import held_by

T = TypeVar("T")


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


_within = threading.local()  # code of the user's in which another Trainer may be made


def seed_trainer(seed: int, deterministic: bool) -> None:
    """Seed for a Trainer that begins, within `SeedsUndone` for the while that it lasts."""
    if getattr(_within, "before", None) == []:
        _within.before.append(host_states() | devices.random_states())
    set_seed(seed, deterministic)


class SeedsUndone:
    """Puts the streams back after the body to what they were when a Trainer that is made in it seeded them."""

    __slots__ = ("outer",)

    def __enter__(self) -> None:
        self.outer, _within.before = getattr(_within, "before", None), []

    def __exit__(self, *error: object) -> None:
        before, _within.before = _within.before, self.outer
        if before:
            restore(before[0])


numpy_random: Any = np.random  # its stubs leave out the two functions that exchange the stream
_INSIDE = np.random.MT19937(0)
_alone = threading.RLock()  # of the thread that has exchanged the streams, which are the whole process's


def _forget_threads() -> None:
    """Begin with a lock that is free, in a process forked while another thread had it."""
    global _alone
    _alone = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the host's three streams from some numbers, and put them back afterwards.

    What is drawn inside depends on the numbers alone: not on what was drawn before, nor on the process. numpy's stream
    is exchanged for another and not copied, which would take longer than all the rest; so one thread waits for another.
    """
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=12).digest()
    python, numpy, cpu = struct.unpack("<3I", digest)
    with _alone:
        before, own, before_cpu = random.getstate(), numpy_random.get_bit_generator(), torch.random.get_rng_state()
        numpy_random.set_bit_generator(np.random.MT19937(0) if own is _INSIDE else _INSIDE)
        random.seed(python)
        np.random.seed(numpy)
        torch.default_generator.manual_seed(cpu)
        try:
            yield
        finally:
            random.setstate(before)
            numpy_random.set_bit_generator(own)
            torch.random.set_rng_state(before_cpu)


def draw_apart(rank: int) -> None:
    """Let a rank draw numbers of its own from here on, on all devices: they follow from its number and from the state
    of the streams, which is that of all ranks. The first one draws on."""
    if rank == 0:
        return
    state = torch.random.get_rng_state().numpy().tobytes() + repr(random.getstate()).encode()
    set_seed(int.from_bytes(hashlib.blake2b(state + str(rank).encode(), digest_size=7).digest(), "little"))


class Together:
    """The host's streams for reading what all ranks must read alike, whatever else each of them has drawn.

    While entered, the streams are those that follow from some numbers and go on where they were left the last time.
    """

    def __init__(self, *numbers: int) -> None:
        with seeded(*numbers):
            self._own = host_states()
        self._others: dict[str, Any] = {}

    def __enter__(self) -> None:
        self._others = host_states()
        restore_host(self._own)

    def __exit__(self, *error: object) -> None:
        self._own = host_states()
        restore_host(self._others)


def host_states() -> dict[str, Any]:
    """Return the states of the streams of the host: python's, numpy's and torch's."""
    with _alone:
        return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}


def restore_host(streams: dict[str, Any]) -> None:
    """Put the host's streams back to saved states."""
    with _alone:
        random.setstate(streams["python"])
        np.random.set_state(streams["numpy"])
        torch.random.set_rng_state(streams["cpu"])


class Streams:
    """The streams of this process, python's, numpy's and torch's on all devices, as a part of checkpoints.

    They are read at every step. Reading python's and numpy's takes longer than all the rest, and is left out while the
    place and the first words of their Mersenne Twisters are what they were, which is looked at in memory: drawing moves
    the place, every 624 words the words change too, and so they do with another seed. Once numpy's was used, it is
    always read, since half of a pair of normal numbers may be kept elsewhere.
    """

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._python_seen, self._numpy_seen = _glance_at_python(), _glance_at_numpy()
        self._used = self._numpy_seen is None or bool(self._numpy[3])  # type: ignore[index]  # a tuple, as nobody asked for a dict

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all streams of this process, the devices' too."""
        with _alone:
            seen = _glance_at_python()
            if seen is None or seen != self._python_seen:
                self._python, self._python_seen = random.getstate(), seen
            if not self._used:
                self._used = _glance_at_numpy() != self._numpy_seen
            if self._used:
                self._numpy = np.random.get_state()
            cpu = torch.default_generator.get_state()
        return {"python": self._python, "numpy": self._numpy, "cpu": cpu, **devices.random_states()}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Put the streams back to what `state_dict` returned."""
        restore(states)


_WORDS = 5  # of a Mersenne Twister that are looked at; the first is the same for every seed
_PYTHON: Any = getattr(random.getstate, "__self__", None)
_PYTHON_ADDRESS = id(_PYTHON) + object.__basicsize__  # CPython's _randommodule.c: the place, then 624 words


def _glance_at_python() -> tuple[bytes, float | None] | None:
    """Return the place and the first words of python's stream, and the kept half of a pair of normal numbers; None
    where they do not lie in memory as they do with CPython."""
    return (_PYTHON_WORDS.raw, _PYTHON.gauss_next) if _IS_CPYTHON else None


def _glance_at_numpy() -> tuple[int, bytes] | None:
    """Return the generator, the first words and the place of numpy's stream; None where it is another generator."""
    generator = numpy_random.get_bit_generator()
    if type(generator) is not np.random.MT19937:
        return None
    address, words, place = _memory_of(generator)
    return address, words.raw + place.raw


@functools.lru_cache(maxsize=4)
def _memory_of(generator: Any) -> tuple[int, Any, Any]:
    """Return where a Mersenne Twister of numpy's lies, its first words and its place, both as they are now."""
    address = int(generator.ctypes.state_address)
    return (
        address,
        (ctypes.c_char * (4 * _WORDS)).from_address(address),
        (ctypes.c_char * 4).from_address(address + 2496),
    )


def _lies_as_expected() -> bool:
    if sys.implementation.name != "cpython" or type(_PYTHON) is not random.Random:
        return False
    words = random.getstate()[1]
    return ctypes.string_at(_PYTHON_ADDRESS, 24) == struct.pack("=6I", words[-1], *words[:5])


_IS_CPYTHON = _lies_as_expected()
_PYTHON_WORDS: Any = (ctypes.c_char * (4 + 4 * _WORDS)).from_address(_PYTHON_ADDRESS)  # its memory, as it is now


def restore(streams: dict[str, Any]) -> None:
    """Put the streams back to saved states."""
    restore_host(streams)
    devices.restore_random(streams)


def own_states(*owners: Any) -> list[Any]:
    """Return the states of the random generators that some objects hold, in order."""
    return [_get(generator) for generator in held_by(dict(enumerate(owners))).values()]


def restore_own(saved: list[Any], *owners: Any) -> None:
    """Put the generators of some objects back to what `own_states` returned."""
    for generator, state in zip(held_by(dict(enumerate(owners))).values(), saved, strict=False):
        _set(generator, state)


def states_of(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of generators, by name."""
    return {name: _get(generator) for name, generator in generators.items()}


def restore_into(generators: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Put generators back to saved states; return the names that only one side knows."""
    for name in generators.keys() & saved.keys():
        _set(generators[name], saved[name])
    return sorted(generators.keys() ^ saved.keys())


class Drawing:
    """Makes what some objects draw depend on numbers alone, from the host's streams and from generators that they hold.

    So a batch is the same in whatever process it is made, and after whatever batch.

    Args:
        seed: of the run.
        owners: objects by name, such as a dataset and a collator. Their generators differ by the state that they have
            now; one that is only made in the first batch depends on the seed alone.
    """

    def __init__(self, seed: int, **owners: Any) -> None:
        self.seed = seed
        self.owners = owners
        self._held = list(held_by(owners).values())
        states = [_get(one) for one in self._held]
        plain = repr([one.tolist() if isinstance(one, torch.Tensor) else one for one in states])
        self._base = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
        self._has_looked = False

    def make(self, build: Callable[[], T], *numbers: int) -> T:
        """Return what a function makes from random numbers that follow from some numbers.

        The first result of a process is made twice where generators came into being on the way, or were made anew as
        transformers' collators do in a worker: the second time from theirs.
        """
        made = self._make(build, numbers)
        if not self._has_looked:
            self._has_looked = True
            held = list(held_by(self.owners).values())
            if len(held) > len(self._held) or any(now is not was for now, was in zip(held, self._held, strict=False)):
                self._held = held
                made = self._make(build, numbers)
        return made

    def _make(self, build: Callable[[], T], numbers: tuple[int, ...]) -> T:
        with seeded(self.seed, *numbers):
            if not self._held:
                return build()
            before = [_get(generator) for generator in self._held]
            for place, generator in enumerate(self._held):
                _seed(generator, repr((self.seed, self._base, place, *numbers)))
            try:
                return build()
            finally:
                for generator, state in zip(self._held, before, strict=True):
                    _set(generator, state)


def _get(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return tuple(_plain(part) for part in generator.get_state())
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _plain(state: Any) -> Any:
    """Return a state of numpy with lists in place of arrays, which it takes back as well."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _seed(generator: Any, text: str) -> None:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    else:
        generator.seed(number)
