"""Reward functions: which one a name means, and how it is called.

A function that takes `completions` is TRL's: called with lists (`prompts`, `completions`, `completion_ids`, every
column of the rows), it returns a list of numbers or None. One that takes `completion` is called for every row with that
row's values, and returns a number or None. Both may be coroutines. What a function does not take is not given to it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from trainwright.errors import ConfigError, did_you_mean
from trainwright.rewards import model

VERIFIERS: dict[str, str] = {
    "exact_match": "trainwright.verifiers.text:exact_match",
    "numeric": "trainwright.verifiers.text:numeric",
    "matches": "trainwright.verifiers.text:matches",
    "json_schema": "trainwright.verifiers.structure:json_schema",
    "python_tests": "trainwright.verifiers.code:python_tests",
    "algebra": "trainwright.verifiers.algebra:algebra",
    **{
        name: f"trainwright.verifiers.oumi:{name}"
        for name in (
            *(f"{kind}_{words}tokens_completions" for kind in ("soft", "sharp") for words in (5, 10, 20)),
            "count_letters",
        )
    },
}
"""Names of rewards that ship; the last ones are Oumi's."""

_GIVEN = ("prompts", "completions", "completion_ids")
_OF_ROWS = ("prompt", "completion")
_LARGEST = 1e18  # its square, which norms of gradients have, is a number of float32


@dataclass(frozen=True)
class Reward:
    """One reward.

    Attributes:
        name: by which it is logged.
        where: `module:name` or `file.py:name`.
        settings: keywords that win over the rows' columns.
        here: whether it is called in the run's process, as models are.
    """

    name: str
    where: str
    settings: Mapping[str, Any]
    here: bool = False

    @property
    def takes_lists(self) -> bool:
        """Whether it is called with lists of completions, which it may compare, and not with one."""
        return "completions" in _taken(self)

    @property
    def given(self) -> tuple[str, ...]:
        """What it may take of the run, which columns of these names are not given for."""
        return _GIVEN if self.takes_lists else (*_GIVEN, *_OF_ROWS)


@dataclass(frozen=True)
class Answer:
    """What a reward says of some rows.

    Attributes:
        values: of every row; None where there is none.
        wrong: why a row has none that ought to have one.
    """

    values: list[float | None]
    wrong: dict[int, str] = field(default_factory=dict)


def of_names(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]], device: str | None = None
) -> list[Reward]:
    """Return rewards by name, each looked up and found to be callable as one; models compute on a device.

    Raises:
        ConfigError: there is none of that name, it cannot be called so, or settings name none or what it does not take.
    """
    short = [Path(name).name if model.is_model(name) else name.rpartition(":")[2] for name in names]
    called = [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]
    for name in settings:
        if name not in (*names, *called):
            raise ConfigError(
                f"reward_function_kwargs has '{name}', which is none of reward_functions.{did_you_mean(name, called)}"
            )
    found = []
    for own, name in zip(called, names, strict=True):
        given = {**settings.get(name, {}), **settings.get(own, {})}
        if model.is_model(name):
            model.check_model(name)
            given |= {"model": name} | ({} if device is None else {"device": device})
            found.append(Reward(own, model.WHERE, given, here=True))
        else:
            found.append(Reward(own, VERIFIERS.get(name, name), given))
        check(found[-1])
    return found


@cache
def function_at(where: str) -> Callable[..., Any]:
    """Return the function at `module:name` or `file.py:name`.

    Raises:
        ConfigError: it cannot be imported, or is no function.
    """
    place, _, name = where.rpartition(":")
    if not place:
        raise ConfigError(
            f"There is no reward '{where}'.{did_you_mean(where, VERIFIERS)} Known: {', '.join(VERIFIERS)}; a function "
            "of yours is written module:name or file.py:name, a reward model as its folder."
        )
    try:
        module = _module(place)
    except (Exception, SystemExit) as error:  # of the user's file, whatever it does
        raise ConfigError(f"The reward '{where}' cannot be imported: {type(error).__name__}: {error}.") from error
    found: Any = getattr(module, name, None)
    if found is None:
        known = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise ConfigError(
            f"The reward '{where}' cannot be imported: {place} has no '{name}'.{did_you_mean(name, known)}"
        )
    if not callable(found):
        raise ConfigError(f"The reward '{where}' is a {type(found).__name__}; a function is expected.")
    function: Callable[..., Any] = found
    return function


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    file = Path(place).resolve()
    name = f"_rewards_{file.stem}_{abs(hash(file))}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{place}' is no file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _taken(reward: Reward) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function_at(reward.where)).parameters


def check(reward: Reward) -> None:
    """Raise a ConfigError where a reward cannot be called as one, or does not take its settings."""
    taken = _taken(reward)
    if not {"completion", "completions"} & set(taken):
        raise ConfigError(
            f"The reward '{reward.name}' takes ({', '.join(taken)}); it must take `completions`, a list, and "
            "return a list of numbers, or `completion`, a text, and return a number."
        )
    if (check_system := getattr(sys.modules.get(reward.where.rpartition(":")[0]), "check_system", None)) is not None:
        check_system()  # of a verifier that does not run everywhere
    takes_any = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    for name in reward.settings:
        if name not in taken and not takes_any:
            raise ConfigError(f"The reward '{reward.name}' takes no '{name}'.{did_you_mean(name, taken)}")


def check_columns(reward: Reward, columns: Collection[str]) -> None:
    """Raise a ConfigError where a reward takes what no row has.

    Args:
        columns: of the rows.
    """
    taken = _taken(reward)
    known = [*reward.given, *(name for name in columns if name not in (*reward.given, "prompt"))]
    for name, one in taken.items():
        needed = one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        if needed and name not in known and name not in reward.settings:
            raise ConfigError(
                f"The reward '{reward.name}' takes '{name}', and neither the rows nor reward_function_kwargs have it."
                f"{did_you_mean(name, known)} It may take {', '.join(known)}."
            )


def shadowed(rewards: Sequence[Reward], columns: Collection[str]) -> list[str]:
    """Return a sentence about each column that rewards are not given, since its name stands for something else."""
    names = {name for reward in rewards for name in reward.given} - {"prompt"}
    return [
        f"The column '{name}' of the data is not given to rewards: by that name they get the run's own. Where a reward "
        f"is to have it, give it another name: column_map: {{{name}: reference}}."
        for name in columns
        if name in names
    ]


def call(reward: Reward, columns: Mapping[str, list[Any]]) -> Answer:
    """Return the rewards of some rows; what the function raises is raised.

    A list of another length says of no row which value is its own, so none has one.

    Args:
        reward: of which function.
        columns: of the rows; `prompts`, `completions` and `completion_ids` among them.
    """
    function, taken = function_at(reward.where), _taken(reward)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    count = len(columns["completions"])
    if reward.takes_lists:
        found = _finished(function(**_wanted({**columns, **reward.settings}, taken, takes_any)))
    else:
        rows = [{name: values[n] for name, values in columns.items()} for n in range(count)]
        for row in rows:
            row |= {"completion": _text(row["completions"]), "prompt": row["prompts"], **reward.settings}
        found = _finished(_together([function(**_wanted(row, taken, takes_any)) for row in rows]))
    if hasattr(found, "tolist"):  # of numpy or torch
        found = found.tolist()
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != count:
        size = f" of {len(found)}" if isinstance(found, Sequence) else ""
        told = f"it returned a {type(found).__name__}{size} for {count} completions"
        return Answer([None] * count, dict.fromkeys(range(count), told))
    wrong = {row: why for row, value in enumerate(found) if (why := _fault(value)) is not None}
    values = [None if value is None or row in wrong else float(value) for row, value in enumerate(found)]
    return Answer(values, wrong)


def _text(completion: Any) -> str:
    """Return what was written: the completion, or the content of its one message."""
    written: str = completion if isinstance(completion, str) else completion[-1]["content"]
    return written


def _wanted(given: Mapping[str, Any], taken: Mapping[str, Any], takes_any: bool) -> dict[str, Any]:
    return {name: value for name, value in given.items() if takes_any or name in taken}


def _finished(value: Any) -> Any:
    """Return what a coroutine comes to, or the value."""
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value


def _together(values: list[Any]) -> Any:
    """Return the values, or where they are coroutines, what awaits all of them at the same time."""
    return _gathered(values) if any(map(inspect.isawaitable, values)) else values


async def _gathered(coroutines: list[Any]) -> list[Any]:
    return await asyncio.gather(*coroutines)


def _fault(value: Any) -> str | None:
    """Return why a value is no reward, or None where it is one, or says itself that there is none."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return f"it returned {str(value)[:60]!r}, which is no number"
    if math.isnan(number):
        return "it returned nan; None says that there is no reward"
    if abs(number) > _LARGEST:
        return f"it returned {number:g}, with which no other reward can be compared; {_LARGEST:g} is the largest"
    return None
