"""What callbacks, overrides and metrics decide, on several ranks: all do the same, whichever of them has said it.

Flags are exchanged wherever the loop has called code of others, after a step only where there is such code on any rank;
ours decides alike everywhere. Metrics are those of rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import torch

from trainwright.callbacks.base import CallbackHandler
from trainwright.errors import RankError
from trainwright.parallel.peers import is_of_an_exchange
from trainwright.parallel.strategy import Strategy
from trainwright.session import metric_values
from trainwright.session.run import Run
from trainwright.session.session import Session
from trainwright.state import TrainerControl

T = TypeVar("T")
_VALUES = (bool, int, float, str, np.generic, np.ndarray, torch.Tensor)
_FLAGS = tuple(flag.name for flag in fields(TrainerControl))
_OF_A_STEP = ("step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end")


def foreign(handler: CallbackHandler, event: str) -> bool:
    """Whether code that is not ours listens to an event."""
    owners: list[Any] = [getattr(one, "__self__", one) for one in handler.listeners(event)]
    return any(not type(owner).__module__.startswith("trainwright.") for owner in owners)


def steers(session: Session) -> bool:
    """Whether code that is not ours takes part in a step and may raise a flag: a callback's, a subclass's, a loss's."""
    hooks, kind = session.hooks, type(session.hooks)
    replaced = [name for name in vars(hooks) if isinstance(getattr(kind, name, None), FunctionType)]
    if replaced or session.compute_loss_func is not None or not kind.__module__.startswith("trainwright."):
        return True
    return any(foreign(session.callback_handler, event) for event in _OF_A_STEP)


def agree(run: Run) -> None:
    """Raise a flag on every rank where it is raised on one, and note whether code that is not ours steers or hears of
    saves, on any rank."""
    session = run.session
    if not session.strategy.is_distributed:
        return
    mine = (steers(session), foreign(session.callback_handler, "save"))
    everyone = session.strategy.agree(*mine, *(getattr(session.control, flag) for flag in _FLAGS))
    run.steered, run.heard_saving, *flags = (any(raised) for raised in zip(*everyone, strict=True))
    for flag, raised in zip(_FLAGS, flags, strict=True):
        setattr(session.control, flag, raised)


def agree_on_step(run: Run) -> None:
    """Agree on the flags after a step, where one may be raised that is not raised on all ranks."""
    if run.steered:
        agree(run)


@contextmanager
def by_all(session: Session, name: str) -> Iterator[None]:
    """Name the processes without which a call of a user's cannot go on, and tell them why this one does not.

    Args:
        session: of the call; within a run's, whatever is called in there leaves it to that.
        name: of what is called.

    Raises:
        RankError: others have failed, are gone, or have not come to the same exchange.
    """
    if session.is_in_train:
        yield
        return
    try:
        yield
    except Exception as error:
        if isinstance(error, RankError):
            raise
        reason = str(error).splitlines()[0] if str(error) else ""
        if not is_of_an_exchange(error):
            session.strategy.tell_failure(f"{type(error).__name__}: {reason}")
            raise
        lost = session.strategy.lost() or (
            f"An exchange with the other processes broke off, and none has failed or is gone ({reason}): code of one "
            "has called the model, evaluate or a save alone, or took longer than "
            f"ddp_timeout={session.args.ddp_timeout:g}"
        )
        raise RankError(f"{lost}, so {name} cannot go on here: all processes call it.") from error


def of_main(strategy: Strategy, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that rank 0 has found; entries that are more than values stay each rank's own."""
    if not strategy.is_distributed:
        return dict(metrics)
    plain = {name: metric_values.plain(value, name) for name, value in metrics.items() if isinstance(value, _VALUES)}
    return {**metrics, **strategy.from_main(plain)}


def as_main(strategy: Strategy, call: Callable[[], T], what: str) -> T:
    """Return what a function returns on rank 0; all ranks call it, and where it fails on one, it fails on all.

    Raises:
        RuntimeError: it failed on another rank.
    """
    if not strategy.is_distributed:
        return call()
    found: T | None = None
    failure: Exception | None = None
    try:
        found = call()
    except Exception as error:
        failure = error
    told = strategy.gather(None if failure is None else repr(failure))
    failed = [f"{what} failed on rank {rank}: {text}" for rank, text in enumerate(told) if text is not None]
    if failed:
        raise RuntimeError(failed[0]) if failure is None else failure
    agreed: T = strategy.from_main(found)
    return agreed


def tell_of_save(run: Run, place: Path) -> None:
    """Tell the callbacks of every rank that a checkpoint is written, where code that is not ours waits for that."""
    if hears_together(run) and run.session.strategy.from_main(run.save_error is None):
        run.fire("save", checkpoint=place)


def hears_together(run: Run) -> bool:
    """Whether several ranks hear of a save at the same place, and none of them before."""
    return run.heard_saving and not run.left_alone


def early_is_final(run: Run) -> None:
    """Tell the callbacks of a checkpoint that was written early, when the run ends with it."""
    early, run.early = run.early, None
    if hears_together(run):
        place = run.session.strategy.from_main(None if early is None else early.place)
    else:
        place = None if early is None else early.place
    if place is not None:
        run.fire("save", checkpoint=place)
