"""Whether the processes of a run begin anew after a failure, by what they said of it."""

from __future__ import annotations

from collections.abc import Mapping

from trainwright.launching.verdict import MISTAKE, OUTSIDE, RAISED, Verdict


class Judge:
    """Decides at each failure of a run.

    Attributes:
        steps: after which each failure came, as far as that is known.
        reason: why the processes do not begin anew, in a sentence; None where nothing speaks against it.
    """

    def __init__(self) -> None:
        self.steps: list[int | None] = []
        self.reason: str | None = None
        self._before: Verdict | None = None

    def begins_anew(self, said: Mapping[int, Verdict]) -> bool:
        """Return whether a new beginning can help.

        Args:
            said: by rank, what the processes said that failed in this beginning.
        """
        rank, found = _first(said)
        self.steps.append(None if found is None else found.step)
        if found is not None and found.kind == MISTAKE:
            at = f" at {found.at}" if found.at else ""
            shown, ended = (found.trace or found.text).strip(), f"so{at}"
        elif found is not None and found.is_again(self._before):
            after = "" if found.step is None else f" after step {found.step}"
            shown, ended = f"{found.error}: {found.text}", f"so twice{after}"
        else:
            self._before = found
            return True
        self.reason = f"{shown}\nRank {rank} ended {ended}, and would again: the run is not begun anew."
        return False

    def history(self) -> str:
        """Return how often the processes have begun anew in vain, in words; empty where they did not."""
        restarts, step = len(self.steps) - 1, self.steps[0]
        same = step is not None and all(one == step for one in self.steps)
        each = f", each time after step {step}" if same else ""
        return f", after {restarts} new beginnings{each}" if restarts else ""


def _first(said: Mapping[int, Verdict]) -> tuple[int, Verdict | None]:
    """Return the rank that decides, and what it said: a mistake before others, what came from outside last."""
    for kind in (MISTAKE, RAISED, OUTSIDE):
        for rank, one in sorted(said.items()):
            if one.kind == kind:
                return rank, one
    return 0, None
