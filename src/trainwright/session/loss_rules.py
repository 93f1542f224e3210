"""How a micro-batch's loss becomes part of its step's, and what a function tells of it. The rules:

    SHARE    the model's own loss, or an objective's: the result is this micro-batch's share of one sum over one count,
             and is added as it is.
    MEAN     a `compute_loss` without `num_items_in_batch`: the mean over micro-batches and ranks.
    UNKNOWN  a `compute_loss` or `compute_loss_func` of the user's that takes `num_items_in_batch`: one of the two;
             `losses/weighing.py` finds out which before it matters.

An overridden `training_step` needs no rule: it does its own backward pass, and its result is only logged. There
`compute_loss` returns what transformers' does, which a copied one divides as it does there.
"""

from __future__ import annotations

import inspect
from enum import Enum, auto
from typing import Any


class Rule(Enum):
    """How a micro-batch's loss becomes part of its step's."""

    SHARE = auto()
    MEAN = auto()
    UNKNOWN = auto()


def takes_num_items(function: Any) -> bool:
    """Whether a `compute_loss` takes `num_items_in_batch`; one that hands on any keyword takes what it wraps takes."""
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    if any(p.name == "num_items_in_batch" for p in parameters):
        return True
    wrapped = getattr(function, "__wrapped__", None)
    return any(p.kind is p.VAR_KEYWORD for p in parameters) and (wrapped is None or takes_num_items(wrapped))
