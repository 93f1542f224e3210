"""What decides the order of data from one pass to the next, and lies in the user's own objects."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Sampler

from trainwright import randomness
from trainwright.data.introspection import has_state, is_of_library

_INNER = ("batches", "sampler", "batch_sampler")
_NUMBERS = 1_000_000  # of a list that is looked at


class OwnState:
    """The random generators that some objects hold, and what they count.

    Counters are plain attributes that are no longer what they were when this was made: numbers, texts, and lists of
    whole numbers, such as an order that is shuffled in place. So one that the script sets anew stays as it is set.
    Looked at are objects of the user's classes and the samplers within; those with a state of their own are left out.
    """

    def __init__(self, *owners: Any) -> None:
        self.owners = owners
        self.made = self._attributes()

    def get(self) -> dict[str, Any]:
        """Return the present state."""
        changed = [
            {name: value for name, value in now.items() if name not in before or before[name] != value}
            for before, now in zip(self.made, self._attributes(), strict=False)
        ]
        return {"generators": randomness.own_states(*self.owners), "attributes": changed}

    def put_back(self, state: dict[str, Any]) -> None:
        """Put back what `get` returned."""
        randomness.restore_own(state.get("generators", []), *self.owners)
        for part, changed in zip(self._parts(), state.get("attributes", []), strict=False):
            vars(part).update({name: list(v) if isinstance(v, list) else v for name, v in changed.items()})

    def _attributes(self) -> list[dict[str, Any]]:
        return [
            {name: list(v) if isinstance(v, list) else v for name, v in vars(part).items() if _is_plain(v)}
            for part in self._parts()
        ]

    def _parts(self) -> list[Any]:
        seen: dict[int, Any] = {}
        waiting = list(self.owners)
        while waiting:
            part = waiting.pop(0)
            if id(part) in seen or not hasattr(part, "__dict__"):
                continue
            seen[id(part)] = part
            waiting += [v for name, v in vars(part).items() if name in _INNER or isinstance(v, Sampler)]
        return [part for part in seen.values() if not is_of_library(part) and not has_state(part)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= _NUMBERS and all(type(item) is int for item in value)
    return value is None or isinstance(value, bool | int | float | str)
