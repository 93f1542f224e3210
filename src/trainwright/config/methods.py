"""What a file can ask for as `training.trainer_type`: the table of methods, and what of each is known without torch.

A method is one class in a file of its own, and one line in `METHODS`. The table names modules that stand above this one
and are imported when they are asked for, so config, `check`, `init`, the schema and the pages of keys know every method
and import none by name. What a method makes of rows and models is in `tasks/language/method.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from trainwright.config.keys.lines import EVERYONE, OUR_ROWS, OURS, THEIRS
from trainwright.config.options import TextOptions
from trainwright.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from trainwright.config.keys.lines import Line
    from trainwright.config.schema import TrainingConfig

METHODS: dict[str, str | type[Method]] = {
    "SFT": "trainwright.methods.sft:SFT",
    "PRETRAIN": "trainwright.methods.pretrain:Pretrain",
    "DPO": "trainwright.methods.dpo:DPO",
    "KTO": "trainwright.methods.kto:KTO",
    "REWARD": "trainwright.methods.reward:Reward",
    "DISTILL": "trainwright.methods.distill:Distill",
    "GRPO": "trainwright.methods.grpo:GRPO",
    "RLOO": "trainwright.methods.rloo:RLOO",
    "CLASSIFY": "trainwright.methods.classify:Classify",
    "SEQ2SEQ": "trainwright.methods.seq2seq:Seq2Seq",
    "HF": "trainwright.methods.hf:Transformers",
    "TRL_SFT": "trainwright.methods.trl_sft:TrlSFT",
    "TRL_DPO": "trainwright.methods.trl_dpo:TrlDPO",
    "TRL_KTO": "trainwright.methods.trl.kto:TrlKTO",
    "TRL_REWARD": "trainwright.methods.trl.reward:TrlReward",
    "TRL_GRPO": "trainwright.methods.trl.grpo:TrlGRPO",
    "TRL_GKD": "trainwright.methods.trl.gkd:TrlGKD",
    "TRL_GOLD": "trainwright.methods.trl.gold:TrlGOLD",
}
"""trainer_type: the class of the method, as `module:class`, or itself."""


def of_packages() -> dict[str, str]:
    """Return the methods of installed packages, which their entry points of this group name; ours stay ours."""
    found = {one.name: one.value for one in entry_points(group="trainwright.methods")}
    return {name: where for name, where in found.items() if name not in METHODS}


METHODS.update(of_packages())

BY_DATA: dict[str | None, tuple[str, ...]] = {None: ("SFT", "DPO"), "OUMI": ("PRETRAIN", "SFT", "DPO")}
"""Values of trainer_type with which the data decide: the first of these methods that is chosen for what they hold."""

ELSEWHERE = {"VERL_GRPO": "verl"}
"""Values that are read and refused, and what runs them."""

Fault = tuple[str, str, str]
"""Dotted name, what is wrong, what to do."""


class Method:
    """What a run learns from its rows, and how, as far as its file decides: a subclass says what differs from this.

    Attributes:
        name: the trainer_type.
        title: what it does, in words.
        library: whose trainer runs; empty for ours.
        package: what must be installed for it, and the extra of ours that has it.
        reads_our_rows: whether it is trained on our rows of tokens.
        options: what `training.trainer_kwargs` may hold.
        lines: what becomes of keys with it, in place of being used, besides `config/keys/uses.py`.
        columns: of its rows, besides those that all methods know.
        adapter_tasks: peft's names of what its models do.
        takes: keys that it uses although `config/keys/uses.py` refuses them.
    """

    title: str = ""
    library: str = ""
    package: tuple[str, str] | None = None
    reads_our_rows: bool = True
    options: type[TextOptions] = TextOptions
    lines: tuple[Line, ...] = ()
    columns: tuple[str, ...] = ()
    adapter_tasks: tuple[str, ...] = ("CAUSAL_LM",)
    takes: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def minimises(self) -> type[TextOptions]:
        """The settings that say what it minimises: methods with the same are compared."""
        return self.options

    @property
    def groups(self) -> frozenset[str]:
        """Whom it belongs to, for lines that are about many methods."""
        rows = [OUR_ROWS] if self.reads_our_rows else []
        return frozenset([self.name, EVERYONE, THEIRS if self.library else OURS, *rows])

    def example(self) -> str:
        """Return the file that `trainwright init` writes; empty where it writes none."""
        return ""

    def faults(self, options: Any) -> Iterator[Fault]:
        """Yield what is wrong with its settings, which are of the type `options`."""
        yield from ()

    def not_the_same(self, config: TrainingConfig) -> Iterator[str]:
        """Yield what it cannot be made to do as the other methods of a comparison, in sentences."""
        yield from ()


def known() -> tuple[str, ...]:
    """Return everything that `training.trainer_type` may be."""
    return (*METHODS, *(name for name in BY_DATA if name), *ELSEWHERE)


def find(name: str) -> Method:
    """Return the method of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in METHODS:
        raise ConfigError(f"There is no method '{name}'.{did_you_mean(name, METHODS)} Known: {', '.join(METHODS)}.")
    where: Any = METHODS[name]
    return _made(name, where)


@cache
def _made(name: str, where: Any) -> Method:
    told = f"METHODS['{name}'] is {where!r}"
    if isinstance(where, str):
        module, _, kind = where.partition(":")
        try:
            where = getattr(importlib.import_module(module), kind)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{told}, which cannot be imported as module:class: {error}.") from error
    if not (isinstance(where, type) and issubclass(where, Method)):
        raise ConfigError(f"{told}; a class derived from Method is expected, or 'module:class' of one.")
    if name != name.upper():  # files may write it as they like
        raise ConfigError(f"{told}; names of methods are written in capitals: '{name.upper()}'.")
    return where(name)


def everyone() -> tuple[Method, ...]:
    """Return all methods, in the order of the table."""
    return tuple(find(name) for name in METHODS)


def candidates(trainer_type: str | None) -> tuple[Method, ...]:
    """Return the methods that a trainer_type may turn out to be: itself, those that the data decide among, or none."""
    names = BY_DATA.get(trainer_type, (trainer_type,))
    return tuple(find(name) for name in names if name in METHODS)


def is_elsewhere(trainer_type: str | None) -> bool:
    """Whether another library's trainer runs."""
    return trainer_type in METHODS and bool(find(trainer_type or "").library)


def all_options() -> dict[type[TextOptions], Method]:
    """Return the kinds of settings, each with the first method that has it."""
    found: dict[type[TextOptions], Method] = {}
    for one in everyone():
        found.setdefault(one.options, one)
    return found


def recipe(name: str) -> str:
    """Return one of the files that `trainwright init` writes."""
    return (files("trainwright") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
