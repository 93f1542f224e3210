"""What a loss is a mean over, found out from parts of a batch where its labels may not tell.

Of a batch cut into two, the losses of the halves, each weighed by what it holds, make the loss of the whole. Labels,
rows, or nothing, where the loss is a sum: what fits is taken.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from operator import mul
from typing import Any, NamedTuple

import torch

from trainwright.batch import MeanOver, by_name, map_tensors, row_count
from trainwright.evaluation_mode import evaluation_mode
from trainwright.losses.loss_source import moved_by, own_copy, steps_by_itself
from trainwright.losses.out_of_memory import passes_over, split
from trainwright.losses.step_batch import StepBatch
from trainwright.models.head import own_loss
from trainwright.models.hooks import unwatched
from trainwright.models.inspect import base_model, is_pretrained
from trainwright.models.unchanged import unchanged
from trainwright.objectives.model_loss import ModelLoss
from trainwright.objectives.objective import Objective
from trainwright.objectives.targets import targets_of, wanted
from trainwright.session.loss_rules import Rule
from trainwright.session.meters import Records
from trainwright.session.run import Run
from trainwright.session.session import Session

_CLOSE = {4: 1e-4, 2: 1e-2}  # relative difference that is none, by bytes of the loss's number format
_FAR = 10  # times that: a difference
_TIMES = 8  # as often is looked, where batches do not tell
_UNITS = {
    "its labels": (MeanOver.TARGETS, False),
    "its labels but the first of each row": (MeanOver.TARGETS, True),
    "its rows": (MeanOver.ROWS, False),
    "nothing: a sum": (MeanOver.NOTHING, False),
}


class Answer(NamedTuple):
    """How far the loss of a batch is from what its halves make of it, by unit; and the difference that is none."""

    off: dict[str, float]
    close: float


def settle(run: Run, work: StepBatch) -> None:
    """Find out what the loss is a mean over, where that is unknown and matters, and weigh this step's micro-batches by
    it. It matters where a step has more than one micro-batch or rank; every rank asks with its first."""
    session, strategy = run.session, run.session.strategy
    if len(work.batches) * strategy.data_shard.num_shards == 1 or not work.total or not is_open(session):
        return
    if strategy.shards_state and not all(
        strategy.gather(bool(work.items[0]) and can_be_asked(session.objective, work.batches[0]))
    ):
        return  # all processes ask, for they run the model together, or none
    if take(session, strategy.gather(ask(session, work.batches[0]) if work.items[0] else None)):
        pairs = zip(work.batches, work.shares, strict=True)
        work.items = [run.count(batch) if share else 0 for batch, share in pairs]
        work.total = strategy.sum_over_shards(sum(work.items))


def look(session: Session, batch: Any) -> None:
    """Find it out in an evaluation of one process; several go by what training found."""
    if not session.strategy.is_distributed and is_open(session):
        take(session, [ask(session, batch)])


def is_open(session: Session) -> bool:
    """Whether what the loss is a mean over is not known: the model or `compute_loss` is the user's."""
    objective = session.objective
    if not isinstance(objective, ModelLoss) or objective.asked >= _TIMES or objective.fused is not None:
        return False
    if session.rule is Rule.MEAN or not session.takes_num_items or steps_by_itself(session.hooks):
        return False
    inner = base_model(session.model)
    return session.hooks.has_own_loss or not is_pretrained(inner) or own_loss(inner) is not None


def ask(session: Session, batch: Any) -> Answer | None:
    """Return how a batch's loss follows from those of its halves; None where that cannot be told.

    Where several units fit, halves without their padding are asked too, of which fewer may. A `compute_loss` that
    divides by the number of items tells how many they are.
    """
    objective, strategy = session.objective, session.strategy
    assert isinstance(objective, ModelLoss)
    if not can_be_asked(session.objective, batch):
        return None
    halves, narrow = pieces_of(objective, batch)
    try:
        whole, again = losses_of(session, [batch, batch])
        told = bool(whole.isfinite() and whole and torch.equal(whole, again))
        if not (all(strategy.gather(told)) if strategy.shards_state else told):
            return None
        off, close = difference(session, whole, halves), _CLOSE[2 if whole.dtype.itemsize < 4 else 4]
        more = len(fitting(off, close)) > 1 and differ(objective, narrow)
        if strategy.any(more) if strategy.shards_state else more:
            other = difference(session, whole, narrow)
            both = {name: max(one, other[name]) for name, one in off.items()}
            off = both if fitting(both, close) else off
        if session.hooks.has_own_loss and (items := items_of(session, batch, whole, close)) is not None:
            counts = held_by(objective, [batch])
            off = {name: max(one, abs(counts[name][0] / items - 1)) for name, one in off.items()}
    except Exception as error:  # of a loss that cannot be asked so: it is weighed as it is
        if not passes_over(error, strategy):
            raise
        if objective.asked == 0:
            session.note(
                "What the loss is a mean over cannot be found out, for it does not take parts of a batch "
                f"({type(error).__name__}: {str(error)[:200]}). It is weighed by {unit_name(objective)}; to weigh it "
                "otherwise give objective= with a count of its own."
            )
        return None
    return Answer(off, close)


def can_be_asked(objective: Any, batch: Any) -> bool:
    """Whether the halves of a batch, with and without their padding, hold something of every unit, and may tell more
    than was told before."""
    assert isinstance(objective, ModelLoss)
    if row_count(batch) < 2 or targets_of(batch, objective.label_names, False) is None:
        return False
    halves, narrow = pieces_of(objective, batch)
    if not all(map(all, held_by(objective, halves + narrow).values())):
        return False
    return not objective.asked or differ(objective, halves) or differ(objective, narrow)  # a sum was told before


def pieces_of(objective: ModelLoss, batch: Any) -> tuple[list[Any], list[Any]]:
    """Return the halves of a batch, with their padding and without it."""
    halves = split(batch, 2)
    return halves, [trimmed(half, objective) for half in halves]


def items_of(session: Session, batch: Any, whole: torch.Tensor, close: float) -> float | None:
    """Return how many items a `compute_loss` has taken the mean of a batch over, by what it makes of their number; None
    where that changes nothing."""
    once, twice = (float(losses_of(session, [batch], number)[0]) for number in (1, 2))
    return once / float(whole) if abs(2 * twice / once - 1) <= close else None


def difference(session: Session, whole: torch.Tensor, parts: list[Any]) -> dict[str, float]:
    """Return how far the loss of a whole is from what its parts make of it, by unit."""
    losses = [float(loss) for loss in losses_of(session, parts)]
    made = {"nothing: a sum": sum(losses)}
    for name, held in held_by(session.objective, parts).items():
        made.setdefault(name, sum(map(mul, losses, held)) / sum(held))
    return {name: abs(value / float(whole) - 1) for name, value in made.items()}


def held_by(objective: Any, parts: list[Any]) -> dict[str, list[int]]:
    """Return what each of some batches weighs, by unit."""
    return {
        name: [replace(objective, over=over, shifted=shifted).count(part) for part in parts]
        for name, (over, shifted) in _UNITS.items()
    }


def differ(objective: ModelLoss, parts: list[Any]) -> bool:
    """Whether the units weigh some batches in different ratios."""
    return len({tuple(one / sum(held) for one in held) for held in held_by(objective, parts).values()}) > 1


def fitting(off: dict[str, float], close: float) -> list[str]:
    """Return the units by which the parts make the whole."""
    return [name for name, one in off.items() if one <= close]


def trimmed(batch: Any, objective: ModelLoss) -> Any:
    """Return a batch without the columns that a mask says are padding, as it would come had it been made alone; padding
    whose labels are no targets stays."""
    labels = next((named[name] for name in objective.label_names if name in (named := by_name(batch) or {})), None)
    if not isinstance(labels, torch.Tensor) or labels.ndim != 2 or not wanted(labels, objective.ignored).all():
        return batch
    width = labels.shape[1]
    for mask in (by_name(batch) or {}).values():
        if mask is not labels and isinstance(mask, torch.Tensor) and mask.shape == labels.shape and is_mask(mask):
            end = int(mask.any(0).nonzero().max()) + 1
            return map_tensors(batch, lambda t: t[:, :end] if t.ndim > 1 and t.shape[1] == width else t)
    return batch


def is_mask(values: torch.Tensor) -> bool:
    """Whether numbers are 0 and 1, and begin with 1 in every row."""
    return bool(((values == 0) | (values == 1)).all() and (values[:, 0] == 1).all())


def losses_of(session: Session, batches: list[Any], items: int | None = None) -> list[torch.Tensor]:
    """Return the loss of each of some batches, of which nothing is left: the mean, or what a number of items gives."""
    found, session.is_asked = [], True
    try:
        for batch in batches:
            with ExitStack() as around:
                around.enter_context(session.recording(Records()))
                for one in (evaluation_mode, unchanged, unwatched):
                    around.enter_context(one(session.model))
                around.enter_context(torch.no_grad())
                around.enter_context(session.hooks.compute_loss_context_manager())
                given = own_copy(session.strategy.device, moved_by(session.hooks, batch))
                found.append(
                    session.hooks.one_loss(session.hooks.compute_loss(session.model, given, num_items_in_batch=items))
                )
    finally:
        session.is_asked = False
    return [loss.detach().cpu().reshape(()) for loss in found]


def take(session: Session, answers: list[Answer | None]) -> bool:
    """Weigh by what the first answer tells; return whether that is another unit than before."""
    answer = next((one for one in answers if one is not None), None)
    objective = session.objective
    assert isinstance(objective, ModelLoss)
    objective.asked += 1
    if answer is None:
        return False
    before = unit_name(objective)
    fit = fitting(answer.off, answer.close)
    objective.asked = _TIMES if len(fit) == 1 else objective.asked
    if before in fit or len(fit) > 1:
        return False
    if fit:
        objective.over, objective.shifted = _UNITS[fit[0]]
        session.note(f"The loss of a batch is a mean over {fit[0]}, and is weighed so.")
    elif answer.off[before] > _FAR * answer.close:
        objective.asked = _TIMES
        session.note(
            f"The loss of a batch is a mean over none of its labels and its rows, and no sum. It is weighed by "
            f"{before}; to weigh it otherwise give objective= with a count of its own, or let compute_loss divide by "
            "num_items_in_batch."
        )
    return bool(fit)


def unit_name(objective: ModelLoss) -> str:
    """Return what an objective weighs by, in words."""
    return next(name for name, unit in _UNITS.items() if unit == unit_of(objective))


def unit_of(objective: ModelLoss) -> tuple[MeanOver, bool]:
    """Return what an objective weighs by, and whether the first label of each row is none."""
    return objective.over, objective.shifted and objective.over is MeanOver.TARGETS


def state_of(objective: Objective) -> list[Any] | None:
    """Return what a checkpoint keeps of what was found."""
    if not isinstance(objective, ModelLoss) or not objective.asked:
        return None
    return [objective.over.name, objective.shifted, objective.asked]


def restore(session: Session, state: list[Any] | None) -> None:
    """Go on with what was found before."""
    if state is not None and isinstance(session.objective, ModelLoss) and is_open(session):
        name, session.objective.shifted, session.objective.asked = state
        session.objective.over = MeanOver[name]
