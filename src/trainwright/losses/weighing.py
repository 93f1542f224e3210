"""How a user's `compute_loss` is weighed, found out from what it does and not from its signature.

A share of the step's loss is half as large when it is told twice the number of items; a mean does not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from trainwright.batch import map_tensors
from trainwright.errors import ConfigError
from trainwright.losses.loss_source import asked, is_the_users, steps_by_itself
from trainwright.losses.out_of_memory import is_out_of_memory, passes_over
from trainwright.losses.probing import undone
from trainwright.losses.step_batch import StepBatch
from trainwright.session.loss_rules import Rule
from trainwright.session.meters import Records
from trainwright.session.run import Run

_CLOSE = {4: 1e-4, 2: 1e-2}  # relative difference that is none, by bytes of the loss's number format


@dataclass
class Answer:
    """What a loss, and every number recorded beside it, is with the number of items and with twice that.

    Attributes:
        once, twice: the two losses.
        again: the first one, asked for a second time.
        close: the relative difference that is none.
        recorded: the two values of each number, by name.
    """

    once: float
    twice: float
    again: float
    close: float
    recorded: dict[str, tuple[float, float]]


def settle(run: Run, work: StepBatch) -> None:
    """Find out the rule where it is unknown and matters, and weigh this step's micro-batches by it.

    It matters where a step has more than one micro-batch or rank. Every rank asks, with its first micro-batch, and all
    do as the first one says that can tell. What is recorded beside the loss is told apart likewise; where it is 0, it
    is asked for again, ever more rarely.

    Raises:
        ConfigError: the loss is neither a share nor a mean, or changes with every call.
    """
    session, strategy, records = run.session, run.session.strategy, run.session.records
    alone = len(work.batches) * strategy.data_shard.num_shards == 1
    unknown = session.rule is Rule.UNKNOWN
    if alone or not work.total or not (unknown or entries_are_due(run)) or steps_by_itself(session.hooks):
        return
    run.asked_at = session.state.global_step
    answers = [answer for answer in strategy.gather(ask(run, work)) if answer is not None]
    for answer in answers:
        for name, (once, twice) in answer.recorded.items():
            if name not in records.kinds and is_told(once, twice):
                records.kinds[name] = abs(twice / once - 0.5) <= answer.close
    run.entries_known = all(name in records.kinds for answer in answers for name in answer.recorded)
    if not unknown:
        return
    own = session.own_objective
    name = "compute_loss" if own is None else f"{type(own).__name__}.loss"
    for answer in answers:
        check_same(answer, name)
    rules = [rule_by(answer.once, answer.twice, answer.close, work.total, name) for answer in answers]
    session.rule = next((rule for rule in rules if rule is not Rule.UNKNOWN), Rule.UNKNOWN)
    if session.rule is Rule.MEAN:
        work.items = list(work.shares)
        work.total = strategy.sum_over_shards(sum(work.items))


def entries_are_due(run: Run) -> bool:
    """Whether what the user's loss records beside it is to be told apart now."""
    if run.entries_known or not run.session.takes_num_items or not is_the_users(run.session):
        return False
    return run.asked_at is None or run.session.state.global_step >= 2 * run.asked_at


def is_told(once: float, twice: float) -> bool:
    """Whether two values can be compared."""
    return once != 0 and math.isfinite(once) and math.isfinite(twice)


def check_same(answer: Answer, name: str) -> None:
    """Check that a loss is the same when it is asked for again.

    Raises:
        ConfigError: it is another.
    """
    if is_told(answer.once, answer.again) and abs(answer.again / answer.once - 1) > answer.close:
        raise ConfigError(
            f"{name} returned {answer.once:.6g} and then {answer.again:.6g} for the same batch: it changes with "
            "every call, so it cannot be found out how micro-batches are weighed. Let it follow the step "
            "(self.state.global_step) and not its calls; or set loss_is_scaled_for_ga in your Trainer: True adds what "
            "is returned up over micro-batches and ranks, False takes its mean."
        )


def rule_by(once: float, twice: float, close: float, total: float, name: str) -> Rule:
    """Return the rule that a loss follows: what it is with the number of items and with twice that; UNKNOWN for 0.

    Raises:
        ConfigError: it follows none.
    """
    if not is_told(once, twice):
        return Rule.UNKNOWN
    if abs(twice / once - 1) <= close:
        return Rule.MEAN
    if abs(twice / once - 0.5) <= close:
        return Rule.SHARE
    raise ConfigError(
        f"{name} returned {once:.6g} told {total:g} items and {twice:.6g} told twice as many: it is "
        "neither a share of the step's loss (half as large) nor a mean over its batch (the same), so micro-batches "
        "cannot be weighed. Divide every term by the number of items, or none; or set loss_is_scaled_for_ga in your "
        "Trainer: True adds what is returned up over micro-batches and ranks, False takes its mean."
    )


def ask(run: Run, work: StepBatch) -> Answer | None:
    """Return the first micro-batch's loss, and what is recorded, with the number of items and with twice that.

    None where it has no targets, memory ran out, or another loss is trained. All ranks call the model alike.
    """
    try:
        first, second, third = (_loss_without_traces(run, work, factor * work.total) for factor in (1, 2, 1))
    except (RuntimeError, MemoryError) as error:
        if not (is_out_of_memory(error) and passes_over(error, run.session.strategy)):
            raise
        return None
    (loss, recorded), (half, half_recorded), (again, _) = first, second, third
    if not work.items[0] or loss is None or half is None or again is None:
        return None
    both = {name: (value, half_recorded[name]) for name, value in recorded.items() if name in half_recorded}
    return Answer(float(loss), float(half), float(again), _CLOSE[2 if loss.dtype.itemsize < 4 else 4], both)


def _loss_without_traces(run: Run, work: StepBatch, num_items: float) -> tuple[torch.Tensor | None, dict[str, float]]:
    batch = map_tensors(work.batches[0], torch.clone)  # which compute_loss may change in place
    with _undone(run), run.session.strategy.accumulate(run.model, last=False):
        loss = asked(run.session, run.model, batch, num_items)
        return loss, {name: value for name, (value, _) in run.session.records.take().items()}


@contextmanager
def _undone(run: Run) -> Iterator[None]:
    """Put back what computing a loss changes, gradients and what is recorded too."""
    try:
        with run.session.recording(Records()), undone(run, run.session.model):
            yield
    finally:
        run.clear_gradients()
