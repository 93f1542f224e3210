"""What a checkpoint keeps besides the weights: named parts, each with a place in a file. Saving and resuming walk them.

A checkpoint is a tree per file: an object of torch.save on the first rank, the one that every rank keeps for itself
(`layout.RANK`), or JSON. The weights are no part: their files are those of transformers (`weights.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from trainwright.batch import map_tensors
from trainwright.checkpoint import folder, layout, plain
from trainwright.checkpoint.sharded.slices import of_file
from trainwright.checkpoint.sharded.trees import Like, filled
from trainwright.errors import CheckpointError, ConfigError, TrainwrightError, UnsavableError
from trainwright.parallel.strategy import Strategy

ABSENT = object()  # what a checkpoint keeps of a part that it does not know
OF_USERS = "parts"  # a user's part `x` is the part `parts.x`


class Stateful(Protocol):
    """Whatever goes on in a resumed run, as torch's modules, optimizers and schedules do."""

    def state_dict(self) -> Any:
        """Return what a checkpoint keeps: tensors, arrays, plain values and containers of these."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go on with what `state_dict` returned."""


@dataclass(frozen=True)
class Exchange:
    """Two functions as one `Stateful`."""

    state_dict: Callable[[], Any]
    load_state_dict: Callable[[Any], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a checkpoint keeps.

    Attributes:
        state: what is asked for its state, and given it.
        title: what the state is called in messages.
        file: the file that holds it.
        key: where in the file's tree; () where it is all of it, or lies beside others at the top.
        as_it_is: whether torch's reader knows all of it, and other engines read it so.
        with_model: whether a checkpoint of the model alone (`save_only_model`) keeps it, too.
        on_all: whether a rank that has no file of its own, where their number is another, is given what the first kept.
        undone: what changes it besides updates: fetching data and forward passes ("step"), or an "evaluation". A
            checkpoint of a step holds it as it was at the step's end.
        anew: what is said to begin anew with a checkpoint of the model alone.
        lacking: what is done where a checkpoint keeps nothing of it; told whether it holds the model alone.
        like: which tensor the one at a place in its state is spread like over processes, where it is spread.
    """

    state: Stateful
    title: str
    file: str = layout.RANK
    key: tuple[str, ...] = ()
    as_it_is: bool = False
    with_model: bool = False
    on_all: bool = False
    undone: Literal["step", "evaluation"] | None = None
    anew: str = ""
    lacking: Callable[[bool], None] | None = None
    like: Like | None = None

    @property
    def of_ranks(self) -> bool:
        """Whether every rank has one of its own."""
        return self.file == layout.RANK

    def encoded(self, state: Any) -> Any:
        """Return a state as its file can hold it.

        Raises:
            UnsavableError: something in it cannot be kept; the message names it.
        """
        if self.file in layout.JSON:
            return plain.as_json(state, self.title)
        return state if self.as_it_is else plain.plain(state, self.title, exact=self.of_ranks)


Parts = Mapping[str, Part]


def trees(parts: Parts, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written of some parts, by file.

    Args:
        parts: that are asked, but for those whose states are given.
        kept: states of before, by name.

    Raises:
        UnsavableError: a state holds what no checkpoint can keep.
    """
    found: dict[str, Any] = {}
    for name, part in parts.items():
        state = part.encoded(kept[name] if name in kept else part.state.state_dict())
        if part.key:
            tree = found.setdefault(part.file, {})
            for step in part.key[:-1]:
                tree = tree.setdefault(step, {})
            tree[part.key[-1]] = state
        elif state:
            found[part.file] = {**found.get(part.file, {}), **state} if isinstance(state, dict) else state
    return found


class Opened:
    """A checkpoint that is read part by part: a file once for all of its parts that follow each other.

    Args:
        place: its folder.
        strategy: how the run is spread whose processes read it.

    Attributes:
        alone: whether it holds the model alone.
        has_own: whether the rank's own file is there; otherwise that of the first rank stands for it.
    """

    def __init__(self, place: Path, strategy: Strategy) -> None:
        own, self._strategy = strategy.own_file(), strategy
        self.place = place
        self.alone = not any((place / name).exists() for name in (layout.OPTIMIZER, layout.PARTS))
        self.own = own
        names = (own, layout.of_rank(0, 1), layout.of_rank(0, 2))
        self._of_rank = next((name for name in names if (place / name).exists()), None)
        self.has_own = self._of_rank == self.own
        self._file, self._tree = "", ABSENT

    def state_of(self, part: Part) -> Any:
        """Return what the checkpoint keeps of a part, or ABSENT."""
        if part.of_ranks and (self.alone or not (self.has_own or part.on_all)):
            return ABSENT
        tree = self.tree(part.file)
        for step in part.key:
            tree = tree.get(step, ABSENT) if isinstance(tree, dict) else ABSENT
        return tree if tree is ABSENT else self._whole_or_spread(part, tree)

    def _whole_or_spread(self, part: Part, tree: Any) -> Any:
        """Return a state with what lies in slices, each tensor spread as this process has it, or whole."""
        if part.file in layout.JSON or part.of_ranks:
            return tree
        slices = of_file(self.place, part.file, self._strategy.share)
        spreads = self._strategy.shards_state and part.like is not None
        return filled(tree, slices, part.key, part.like) if spreads or slices else tree

    def tree(self, file: str) -> Any:
        """Return all that a file holds, or ABSENT.

        Raises:
            CheckpointError: it cannot be read.
        """
        if file != self._file:
            self._tree = ABSENT  # two large ones are not in memory at once
            self._file, self._tree = file, self._read(file)
        return self._tree

    def _read(self, file: str) -> Any:
        name = self._of_rank if file == layout.RANK else file
        if name is None:
            return {}
        path = self.place / name
        if not path.exists():
            return ABSENT
        if file in layout.JSON:
            return plain.restore(json.loads(path.read_text(encoding="utf-8")))
        return folder.load(path, mapped=self._strategy.shards_state)


def restore(parts: Parts, checkpoint: Opened) -> list[str]:
    """Give every part what a checkpoint keeps of it, in their order; return what begins anew.

    Where one fails, the others are restored before its error is raised: other ranks may wait for this one in them.

    Raises:
        CheckpointError: a part cannot go on with it; of several, the first one's.
    """
    anew: list[str] = []
    failures = []
    for part in parts.values():
        try:
            anew += _restored(part, checkpoint)
        except CheckpointError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return anew


def _restored(part: Part, checkpoint: Opened) -> list[str]:
    """Give a part what a checkpoint keeps of it; return its name where it begins anew."""
    state = checkpoint.state_of(part)
    if state is not ABSENT:
        part.state.load_state_dict(state)
        return []
    if part.lacking is not None:
        part.lacking(checkpoint.alone)
    return [part.anew] if part.anew else []


def check_users(given: Mapping[str, Any], listed: str = "checkpoint_parts") -> None:
    """See whether all of the user's own parts, which are listed under a name, can be kept.

    Raises:
        ConfigError: they are no dict, or one has not the two methods.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{listed} is a {type(given).__name__}; it must be a dict of names and parts, such as {{'critic': critic}}."
        )
    for name, part in given.items():
        if isinstance(part, type):
            raise ConfigError(
                f"{listed}['{name}'] is the class {part.__name__}; give what it makes: {part.__name__}(…)."
            )
        if not all(callable(getattr(part, method, None)) for method in ("state_dict", "load_state_dict")):
            raise ConfigError(
                f"{listed}['{name}'] is a {type(part).__name__}; a part that checkpoints keep needs "
                "state_dict() and load_state_dict(state)."
            )


def of_users(
    given: Mapping[str, Stateful],
    place: Path | None,
    note: Callable[[str], None],
    *,
    file: str = layout.RANK,
    on_all: bool = True,
) -> Iterator[tuple[str, Part]]:
    """Yield the user's own parts, with names that are nobody else's.

    Args:
        given: the parts.
        place: the checkpoint that is resumed.
        note: told of a part that begins anew.
        file: that holds them.
        on_all: of parts that every rank keeps: whether those for which there is none are given the first one's.
    """

    def tell(name: str, alone: bool) -> None:
        if not alone:  # else it is said with all others
            note(f"'{place}' keeps nothing of the part '{name}'; it begins anew.")

    for name, part in given.items():
        yield (
            f"{OF_USERS}.{name}",
            Part(
                state=_OfUser(part, name, place),
                title=f"The state of the part '{name}'",
                file=file,
                key=(OF_USERS, name),
                on_all=on_all,
                undone="evaluation",
                anew=f"the part '{name}'",
                lacking=partial(tell, name),
            ),
        )


def copied(part: Part) -> Any:
    """Return a part's state, which shares nothing with it.

    Raises:
        UnsavableError: it cannot be kept.
    """
    tree = plain.plain(part.state.state_dict(), part.title)
    return plain.restore(map_tensors(tree, lambda tensor: tensor.detach().clone()))


def unknown_to(given: Mapping[str, Stateful], checkpoint: Opened) -> list[str]:
    """Return the names of the user's parts that a checkpoint keeps, and the script has no more."""
    tree = checkpoint.tree(layout.RANK)
    return sorted(tree.get(OF_USERS, {}).keys() - given.keys())


@dataclass(frozen=True)
class _OfUser:
    """A part of the user's, whose faults are told by its name."""

    part: Stateful
    name: str
    place: Path | None

    def state_dict(self) -> Any:
        try:
            return self.part.state_dict()
        except Exception as error:
            raise UnsavableError(
                f"The part '{self.name}' cannot be saved: its state_dict() failed ({type(error).__name__}: {error}). "
                "Mend it, or leave the part out of what checkpoints keep."
            ) from error

    def load_state_dict(self, state: Any) -> None:
        try:
            self.part.load_state_dict(state)
        except TrainwrightError:
            raise
        except Exception as error:
            kept = "the state that it had before" if self.place is None else f"what '{self.place}' keeps of it"
            raise CheckpointError(
                f"The part '{self.name}' cannot go on with {kept}: its load_state_dict() "
                f"failed ({type(error).__name__}: {error}). Mend it, or leave the part out of what checkpoints keep."
            ) from error
