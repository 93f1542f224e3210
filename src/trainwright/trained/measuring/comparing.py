"""Models beside each other on the same rows: how sure a value is, and where one is better than another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 2000
_LEVEL = 0.95
_NUMBERS = 2**22  # that are drawn at a time
_MOST = 700.0  # of an exponent, whose power is still finite


@dataclass(frozen=True)
class Scores:
    """A metric of one model by rows: it is the sum of the amounts over that of the weights.

    Attributes:
        name: of the metric.
        amounts: float64, shape (rows,).
        weights: what they count for, such as tokens; float64, shape (rows,).
        less_is_better: whether less is better.
        exponential: whether the metric is e to that power, as a perplexity is.
    """

    name: str
    amounts: np.ndarray
    weights: np.ndarray
    less_is_better: bool = False
    exponential: bool = False

    @property
    def value(self) -> float:
        """The metric over all rows."""
        return float(self.of(np.ones((1, len(self.amounts))))[0])

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Return the metric over rows that are counted so often, shape (draws,); the counts have (draws, rows)."""
        weights = counts @ self.weights
        ratios = np.divide(counts @ self.amounts, weights, out=np.zeros(len(counts)), where=weights > 0)
        found: np.ndarray = np.exp(ratios.clip(max=_MOST)) if self.exponential else ratios
        return found


@dataclass(frozen=True)
class Compared:
    """A model's metric against another's on the same rows.

    Attributes:
        difference: how much greater it is.
        interval: in which the difference lies with 95 %.
        wins, losses, ties: rows in which it is better, worse, and as good.
    """

    difference: float
    interval: tuple[float, float]
    wins: int
    losses: int
    ties: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves no difference out."""
        return not self.interval[0] <= 0 <= self.interval[1]


def interval(scores: Scores, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a metric over rows drawn anew, with replacement (Efron 1979, percentiles)."""
    return _between(np.concatenate([scores.of(counts) for counts in _drawn(len(scores.amounts), seed)]))


def compared(one: Scores, other: Scores, seed: int = 0) -> Compared:
    """Return a metric of `one` against that of `other`; rows are drawn for both together, for they are the same.

    Raises:
        ValueError: they are not of the same rows.
    """
    if len(one.amounts) != len(other.amounts):
        raise ValueError(f"{one.name} of {len(one.amounts)} rows cannot be compared with {len(other.amounts)} rows")
    drawn = [one.of(counts) - other.of(counts) for counts in _drawn(len(one.amounts), seed)]
    known = (one.weights > 0) & (other.weights > 0)
    ours, theirs = (scores.amounts[known] / scores.weights[known] for scores in (one, other))
    better = ours < theirs if one.less_is_better else ours > theirs
    ties, wins = int((ours == theirs).sum()), int(better.sum())
    return Compared(one.value - other.value, _between(np.concatenate(drawn)), wins, len(ours) - wins - ties, ties)


def _drawn(rows: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often every row is drawn, in blocks of shape (draws, rows)."""
    random, block = np.random.default_rng(seed), max(1, _NUMBERS // rows)
    for start in range(0, _DRAWS, block):
        size = min(block, _DRAWS - start)
        drawn = random.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)


def _between(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def table(names: Sequence[str], scores: Sequence[Sequence[Scores]]) -> list[str]:
    """Return lines that show every metric of every model, and each against the first.

    Args:
        names: of the models.
        scores: of every model its metrics, the same ones in the same order.
    """
    letters = [chr(ord("A") + number) for number in range(len(names))]
    several = len(names) > 1
    lines = [*(f"{letter}  {name}" for letter, name in zip(letters, names, strict=True)), ""] if several else []
    against = f"  {'against A':<23}  won/lost/tie" if several else ""
    lines.append(f"{'':<13}   {'value':>7}  {'95 % between':<16}{against}".rstrip())
    for number, first in enumerate(scores[0]):
        for place, letter in enumerate(letters if several else " "):
            one = scores[place][number]
            beginning = f"{one.name if place == 0 else '':<13} {letter} {one.value:>7.4g}  {_span(*interval(one)):<16}"
            lines.append((beginning + ("" if place == 0 else _against(compared(one, first)))).rstrip())
    return lines


def _against(found: Compared) -> str:
    how = f"{found.difference:+.3g} ({_span(*found.interval, digits='+.3g')})"
    return f"  {how:<23}  {found.wins}/{found.losses}/{found.ties}"


def _span(low: float, high: float, digits: str = ".4g") -> str:
    return f"{low:{digits}}..{high:{digits}}"
