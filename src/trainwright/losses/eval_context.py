"""One pass over evaluation data: the model's mode around it, and this rank's batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from trainwright.data.introspection import length_of
from trainwright.data.loaders.streams import RankStream, Stamped
from trainwright.data.loaders.workers import reading
from trainwright.data.loaders.wrapped_loaders import EveryNth
from trainwright.errors import DataError
from trainwright.evaluation_mode import modes_of, put_back
from trainwright.inputs import dividing
from trainwright.losses import fused_loss, loss_source
from trainwright.session.ema import Ema
from trainwright.session.meters import Records
from trainwright.session.model_setup import called, full_evaluation_type, in_format, optimizer_mode, train_mode
from trainwright.session.session import Session
from trainwright.session.signals import StopWaiting

_END = object()


def batches_of(session: Session, loader: Any, marks: list[float] | None = None) -> Generator[Any]:
    """Yield this rank's batches of a loader.

    Args:
        session: whose ranks divide it, unless it is divided already.
        loader: any iterable of batches.
        marks: takes the mark of what was read, see `dividing.check_marks`.

    Raises:
        DataError: the loader is empty; of one that is divided already a part may be.
    """
    mine = dividing.for_evaluation(session, loader)
    whole = mine is loader or isinstance(mine, EveryNth)
    if whole and length_of(loader) == 0:
        raise DataError("The evaluation data is empty (its length is 0). Give a set with rows.")
    if isinstance(getattr(mine, "dataset", None), RankStream):
        mine.dataset.stamped = mine.dataset.shard.num_shards > 1
    empty, mark = True, 0.0
    with reading(mine) as batches:
        while True:
            with waiting(session):
                batch = next(batches, _END)
            if batch is _END:
                break
            empty = False
            if isinstance(batch, Stamped):
                batch, mark = batch.batch, mark or batch.mark
            yield batch
    if marks is not None:
        marks.append(mark or getattr(mine, "mark", 0.0))
    if empty and whole:
        raise DataError("The evaluation data gave no batch: the set or loader is empty.")


@contextmanager
def waiting(session: Session, alone: bool = False) -> Iterator[None]:
    """Run the body, which waits for a batch in an evaluation of a run's, unless that is asked to stop, on any rank.

    Where ranks share the model, all of them come here equally often and leave at the same batch: one that left by
    itself would be missed in the next forward pass of the others.

    Args:
        session: of the evaluation.
        alone: whether this rank needs no other one until the evaluation is over, whatever they share.

    Raises:
        StopWaiting: it is.
    """
    run, strategy = session.run, session.strategy
    if run is None or not run.evaluates:
        yield
        return
    if strategy.shards_state and not alone:
        if strategy.any(run.signals.received is not None):
            raise StopWaiting
        yield
        return
    if not strategy.computes_alone:  # others would wait in the midst of a layer; `together` looks at the end
        yield
        return
    word = f"stop {run.run_id} {session.state.global_step}"
    if strategy.heard(word):
        raise StopWaiting
    try:
        with run.signals.waiting():
            yield
    except StopWaiting:
        strategy.tell(word)
        raise


@contextmanager
def together(session: Session, loader: Any = None) -> Iterator[list[float]]:
    """Run this rank's part of a pass; either all ranks go on after it, or all leave.

    Where ranks share the model, the others may wait for one that fails in the midst of a forward pass: it meets them
    nowhere, and they hear of it when it is gone.

    Gives the list for the marks of what is read of a loader, which are to be the same on all ranks.

    Raises:
        StopWaiting: the run is asked to stop.
        RuntimeError: another rank failed.
        DataError: the ranks have not read the same.
    """
    run, strategy = session.run, session.strategy
    failure: BaseException | None = None
    marks: list[float] = []
    try:
        yield marks
    except (Exception, StopWaiting) as error:
        failure = error
    is_missed = strategy.shards_state and isinstance(failure, Exception)
    if strategy.is_distributed and not is_missed:
        stop = (run.signals.received or 0) if run is not None and run.evaluates else 0
        told = strategy.gather((stop, repr(failure) if isinstance(failure, Exception) else None, sum(marks)))
        failed = [f"The evaluation failed on rank {rank}: {text}" for rank, (_, text, _) in enumerate(told) if text]
        if failed and not isinstance(failure, Exception):
            failure = RuntimeError(failed[0])
        elif run is not None and not failed and any(number for number, *_ in told):
            run.agreed_stop, failure = max(number for number, *_ in told), StopWaiting()
        elif not failed:
            dividing.check_marks([mark for _, _, mark in told], loader)
    if failure is not None:
        raise failure


def rows_of(loader: Any) -> np.ndarray | None:
    """Return the rows of a loader in the order in which it gives them; None where that is their own."""
    plan = getattr(getattr(loader, "batch_sampler", None), "plan", None)
    return plan.order.rows(0) if plan is not None and plan.order.sampling == "by_length" else None


def averaged(ema: Ema | None, model: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which the model has the moving average of its weights, where the run keeps one."""
    return nullcontext() if ema is None else ema.applied(model)


@contextmanager
def evaluating(session: Session, records: Records) -> Iterator[nn.Module]:
    """Give the model in evaluation mode, in the number format asked for; training goes on afterwards as before, with
    every part in the mode that it had.

    What is recorded meanwhile goes to `records`.
    """
    model = session.model
    session.strategy.place(model)
    kind = None if session.is_in_train else full_evaluation_type(session.args)
    modes = modes_of(session.model_wrapped)
    try:
        train_mode(session, False)
        model.eval()
        if not session.is_in_train:
            loss_source.look_at(session)
            fused_loss.prepare(session)
        same_buffers = session.strategy.with_main_buffers(model)
        with (
            in_format(model, kind),
            torch.no_grad(),
            averaged(session.ema, session.model),
            same_buffers,
            session.recording(records),
        ):
            yield called(session)
    finally:
        session.strategy.rest(model)
        if session.is_in_train:
            put_back(modes)
            optimizer_mode(session.optimizer, True)
        else:
            fused_loss.finish(session)
