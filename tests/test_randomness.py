"""What is drawn follows from numbers alone: others with every number, the same in any order, and nothing is left."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from trainwright.randomness import Drawing, host_states

GENERATORS = {
    "python's own": lambda: random.Random(3),
    "numpy's": lambda: np.random.default_rng(3),
    "numpy's old one": lambda: np.random.RandomState(3),
    "torch's": lambda: torch.Generator().manual_seed(3),
}


class Owner:
    """Draws from the three streams, and from a generator of its own where it has one."""

    def __init__(self, generator=None):
        self.generator = generator

    def __call__(self):
        mine = self.generator
        own = (
            0.0
            if mine is None
            else torch.rand((), generator=mine).item()
            if isinstance(mine, torch.Generator)
            else mine.random()
        )
        return random.random(), float(np.random.rand()), torch.rand(()).item(), float(own)


def drawn(seed, owners, numbers):
    drawing = Drawing(seed, **owners)
    return {key: drawing.make(lambda: [draw for owner in owners.values() for draw in owner()], *key) for key in numbers}


NUMBERS = list(itertools.product(range(3), range(4)))


@pytest.mark.parametrize("kind", [None, *GENERATORS])
def test_every_number_changes_every_stream_and_order_changes_none(kind):
    make = GENERATORS.get(kind, lambda: None)
    found = drawn(1, {"dataset": Owner(make())}, NUMBERS)
    assert drawn(1, {"dataset": Owner(make())}, NUMBERS[::-1]) == found
    others = drawn(2, {"dataset": Owner(make())}, NUMBERS)
    for stream in range(4 if kind else 3):
        values = [values[stream] for values in (*found.values(), *others.values())]
        assert len(set(values)) == 2 * len(NUMBERS)


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_of_two_owners_draw_apart_and_each_by_the_state_that_it_had(kind):
    both = drawn(1, {"dataset": Owner(GENERATORS[kind]()), "collator": Owner(GENERATORS[kind]())}, [(0, 0)])[0, 0]
    assert both[3] != both[7]
    moved = Owner(GENERATORS[kind]())
    moved()
    assert drawn(1, {"dataset": moved}, [(0, 0)])[0, 0][3] != both[3]


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_streams_and_generators_are_left_as_they_were(kind):
    owner = Owner(GENERATORS[kind]())
    drawing = Drawing(1, dataset=owner)
    before = host_states()
    drawing.make(owner, 0, 0)
    after = host_states()
    assert before["python"] == after["python"]
    assert all(np.array_equal(one, other) for one, other in zip(before["numpy"], after["numpy"], strict=True))
    assert torch.equal(before["cpu"], after["cpu"])
    assert owner()[3] == Owner(GENERATORS[kind]())()[3]


def test_a_generator_that_comes_into_being_in_the_first_batch_depends_on_the_numbers_too():
    class Late(Owner):
        def __call__(self):
            self.generator = self.generator or random.Random()
            return super().__call__()

    first, second = (drawn(1, {"collator": Late()}, NUMBERS) for _ in range(2))
    assert first == second
    assert len({values[3] for values in first.values()}) == len(NUMBERS)
