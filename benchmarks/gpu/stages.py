"""The stages of `make gpu`, in the order of their worth."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """One stage.

    Attributes:
        name: of it, and of its function.
        module: where the function is, within this package; it is given a `Setting`, returns what it found by name, and
            raises what is wrong.
        seconds: that it may take.
    """

    name: str
    module: str
    seconds: int = 60

    @property
    def function(self) -> Callable[[Any], dict[str, Any]]:
        """The function; its docstring is what the page says of the stage."""
        found: Callable[[Any], dict[str, Any]] = getattr(
            importlib.import_module(f"benchmarks.gpu.{self.module}"), self.name
        )
        return found


STAGES = (
    Stage("twins", "numbers", 120),
    Stage("waits", "numbers"),
    Stage("resume", "numbers", 120),
    Stage("bad_step", "numbers"),
    Stage("attention", "kernels", 90),
    Stage("head", "kernels"),
    Stage("kill", "processes"),
    Stage("out_of_memory", "numbers"),
    Stage("ranks", "processes"),
    Stage("dense", "figures", 150),
    Stage("qlora", "processes"),
    Stage("optimizers", "kernels"),
    Stage("compiled", "numbers", 90),
    Stage("stall", "figures", 90),
    Stage("tuning", "figures", 180),
    Stage("preferences", "figures"),
)
