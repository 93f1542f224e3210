"""The checkers held against sympy and FLINT on random pairs; what disagrees is returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.tasks.algebra.disguise import Case, case
from tests.tasks.algebra.truth import by_flint, by_sympy
from trainwright.tasks.algebra.problems import TASKS

REFERENCES: dict[str, Callable[[str, Case], bool]] = {"sympy": by_sympy, "FLINT": by_flint}


@dataclass
class Tally:
    """What became of some pairs: how many are the same answer, the longest decision in seconds, and disagreements."""

    right: int = 0
    longest: float = 0.0
    wrong: list[str] = field(default_factory=list)


def compare(name: str, count: int, references: tuple[str, ...] = ("sympy", "FLINT")) -> Tally:
    """Let a task's checker and the references decide about the same pairs."""
    tally, check = Tally(), TASKS[name].check
    for seed in range(count):
        one = case(name, seed)
        began = time.perf_counter()
        ours = check(one.problem, one.reference, one.answer)
        tally.longest = max(tally.longest, time.perf_counter() - began)
        tally.right += ours
        others = {reference: REFERENCES[reference](name, one) for reference in references}
        if set(others.values()) != {ours}:
            tally.wrong.append(f"{seed}: {ours}, {others}: {one.reference!r} and {one.answer!r}")
    return tally
