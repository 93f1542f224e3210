"""A curve of text: the losses of a run as a line of braille letters, with the evaluations as circles upon it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

Points = Sequence[tuple[float, float]]
_ROWS = 7
_LABEL = 9
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille letter: 4 rows of 2 dots
_BLANK = 0x2800


def curve(line: Points, marks: Points, last: int, width: int, legend: str) -> list[str]:
    """Return the lines of a drawing of points (step, value), from step 0 to `last`.

    Args:
        line: drawn as a line.
        marks: drawn as circles.
        last: the step at the right end.
        width: characters of a line.
        legend: what is drawn, for the line below.

    Returns:
        No line where there are fewer than two points that are finite.
    """
    line, marks = ([(step, value) for step, value in points if math.isfinite(value)] for points in (line, marks))
    values = [value for _, value in (*line, *marks)]
    if len(values) < 2:
        return []
    low, high = min(values), max(values)
    columns = width - _LABEL - 2
    cells = [[_BLANK] * columns for _ in range(_ROWS)]

    def place(step: float, value: float) -> tuple[int, int]:
        down = (high - value) / (high - low) if high > low else 0.5
        return min(int(step / max(last, 1) * (2 * columns - 1)), 2 * columns - 1), round(down * (4 * _ROWS - 1))

    for x, y in _joined([place(step, value) for step, value in line]):
        cells[y // 4][x // 2] |= _BITS[y % 4][x % 2]
    letters = [[chr(cell) if cell != _BLANK else " " for cell in row] for row in cells]
    for step, value in marks:
        x, y = place(step, value)
        letters[y // 4][x // 2] = "●"
    labels = [f"{high:.4g}", *[""] * (_ROWS - 2), f"{low:.4g}"]
    drawn = [f"{label:>{_LABEL}} ┤{''.join(row).rstrip()}" for label, row in zip(labels, letters, strict=True)]
    end = f"step {last}"
    return [*drawn, f"{'':>{_LABEL}} └{legend} ".ljust(_LABEL + 2 + columns - len(end), "─")[: width - len(end)] + end]


def _joined(places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the dots of a line through places (x, y) whose x never falls."""
    yield from places[:1]
    for (x, y), (next_x, next_y) in pairwise(places):
        for dot in range(x + 1, next_x + 1):
            yield dot, round(y + (next_y - y) * (dot - x) / (next_x - x))
        if next_x == x:
            yield next_x, next_y
