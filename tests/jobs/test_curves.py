"""Curves with fewer points: what stands out stays."""

from __future__ import annotations

import math
import random

import pytest

from trainwright.jobs.curves import thinned


def curve(count, **values):
    """Points of noise around 2, but for some steps."""
    rng = random.Random(0)
    points = [[step, 2 + rng.random() / 5, 1e9 + step] for step in range(count)]
    for name, value in values.items():
        points[int(name.removeprefix("at_"))][1] = value
    return [tuple(point) for point in points]


@pytest.mark.parametrize("most", [50, 101, 1200])
def test_no_spike_is_lost_upward_or_downward(most):
    points = curve(10_000, at_3123=9.0, at_3124=-9.0, at_7345=-8.0)
    kept = thinned(points, most)
    assert most / 2 < len(kept) <= most
    assert {point[1] for point in kept} > {9.0, -9.0, -8.0}
    known = set(kept)
    assert kept == [point for point in points if point in known]  # points of the curve, in their order
    assert (kept[0], kept[-1]) == (points[0], points[-1])


@pytest.mark.parametrize(("count", "most", "left"), [(0, 10, 0), (10, 10, 10), (11, 10, 10), (3, 10, 3)])
def test_few_points_stay(count, most, left):
    points = curve(count)
    assert thinned(points, most) == points if left == count else len(thinned(points, most)) == left


def test_what_is_no_number_stands_where_there_is_no_other():
    points = curve(1000, **{f"at_{step}": math.nan for step in [*range(400, 600), 100, 900]})
    kept = thinned(points, 42)
    assert {point[0] for point in kept if math.isnan(point[1])} <= set(range(400, 600))
    assert any(math.isnan(point[1]) for point in kept)
    assert sum(not math.isnan(point[1]) for point in kept) >= 34  # of the stretches with numbers, both ends
