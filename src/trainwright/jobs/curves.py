"""Curves with as many points as a screen shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[int, float, float]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most about `most` points (step, value, time) of a curve: of every stretch the least and the greatest.

    So no spike is lost. The first and the last point stay; a value that is none stands for its stretch only where there
    is no other.
    """
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    stretches = max((most - 2) // 2, 1)
    kept = [points[0]]
    for number in range(stretches):
        part = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        if not part:
            continue
        good = [point for point in part if not math.isnan(point[1])] or part[:1]
        ends = {min(good, key=_value), max(good, key=_value)}
        kept += sorted(ends, key=lambda point: (point[0], point[2]))
    return [*kept, points[-1]]


def _value(point: Point) -> float:
    return point[1]
