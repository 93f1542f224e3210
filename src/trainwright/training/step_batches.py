"""From the loader to the step: the micro-batches, what each weighs, and that all ranks agree on it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

from trainwright.batch import row_count
from trainwright.callbacks import job
from trainwright.data.loaders.loader import PlannedLoader
from trainwright.data.loaders.rows import PaddingBatch
from trainwright.devices import empty_cache
from trainwright.errors import DataError
from trainwright.inputs import dataloaders, dividing
from trainwright.inputs.batch_counts import work_in
from trainwright.losses.out_of_memory import is_out_of_memory, split
from trainwright.losses.step_batch import StepBatch
from trainwright.saving import step_boundary
from trainwright.session.loss_rules import Rule
from trainwright.session.run import Run
from trainwright.session.signals import StopWaiting
from trainwright.training import shutdown

_STEPS_WITHOUT_TARGETS = 10


@dataclass(frozen=True)
class Piece:
    """A part of a micro-batch, with its share of what that holds."""

    batch: Any
    share: float


class Counts(NamedTuple):
    """What is in some micro-batches: floating point operations, tokens where they are asked for, rows; and where the
    device's best is known, operations and tokens by the model's own shapes."""

    operations: float = 0.0
    tokens: float = 0
    rows: float = 0
    useful: float = 0.0
    real_tokens: float = 0


def feed(run: Run) -> Generator[StepBatch]:
    """Yield the work of every step left in this epoch.

    Raises:
        DataError: there is no data, or nothing in it is a target, or a process that reads it has died.
    """
    yielded = False
    follow_rows(run)
    with closing(run.loader.steps(run.epoch, run.position)) as steps:
        for work in _works(run, steps):
            _check_targets(run, work.total)
            yielded = True
            yield work if run.session.stage is None else run.session.stage.work(run, work)
    if not yielded and run.position == 0 and not run.done:
        raise DataError(
            f"The training data gave no batch in pass {run.epoch + 1}: the dataset or loader is empty, or is used up "
            "after one pass. Give a dataset with rows, or one that can be read again."
        )


def follow_rows(run: Run) -> None:
    """Let a pass that begins have the rows which the dataset has now; the number of steps stays what it was.

    Raises:
        DataError: they are none, the ranks have different numbers, or workers keep copies of the dataset as it was.
    """
    loader, session = run.loader, run.session
    if not isinstance(loader, PlannedLoader) or run.position:
        return
    plan, dataset, strategy = loader.plan, dataloaders.dataset_of(loader.loader), session.strategy
    before, everyone = plan.order.num_rows, strategy.gather((plan.order.num_rows, len(dataset)))
    if all(then == now for then, now in everyone):
        return
    whole = plan.batching.ranks == strategy.data_shard.num_shards  # else every rank has rows of its own
    told = f"The training data has {len(dataset)} rows in pass {run.epoch + 1}, after {before} in the pass before"
    if whole and len({now for _, now in everyone}) > 1:
        raise DataError(f"{told}, and another number on other ranks. Add or remove the same rows on each of them.")
    if loader.loader.num_workers and loader.loader.persistent_workers:
        raise DataError(f"{told}, but workers keep copies of it: set dataloader_persistent_workers=False.")
    plan.follow(replace(dataloaders.train_order(session, dataset), group_rows=plan.order.group_rows))
    plan.most_rows = max(strategy.gather(plan.most_rows))
    if not plan.most_rows:
        raise DataError(f"{told}, which is less than one batch.")
    run.content = strategy.on_main(lambda: dataloaders.content_of_training(loader))
    session.note(f"{told}; it is read as it is now, and the run ends at step {run.max_steps} at most.")


def _works(run: Run, steps: Iterator[tuple[int, list[Any]]]) -> Iterator[StepBatch]:
    position, spare = run.position, None
    save = None if run.session.strategy.is_distributed else partial(shutdown.save_meanwhile, run)
    while True:
        failure: Exception | None = None
        batches: list[Any] = []
        run.boundary = step_boundary.take(run)
        try:
            position, batches = _next_batches(run, steps, save) or (position, [])
        except StopWaiting:
            batches = []
        except Exception as error:
            failure = error
        spare = batches[-1] if batches else spare
        parts, counts = _in_pieces(run, batches, run.pieces), work_of(run, batches)
        work = _agreed(run, position, parts, spare=spare, failure=failure, counts=counts)
        if work is None:
            run.boundary = None
            return
        yield work


def _next_batches(
    run: Run, steps: Iterator[tuple[int, list[Any]]], save: Callable[[], None] | None
) -> tuple[int, list[Any]] | None:
    """Wait for the micro-batches of the next step; None at the end of the data."""
    with run.timesheet.spending("data"):
        try:
            run.signals.begin_waiting(save)
            return next(steps, None)
        finally:
            run.signals.end_waiting()


def work_of(run: Run, batches: list[Any]) -> Counts:
    """Return what is in the micro-batches of a step, without those that are only repeated."""
    found = [work_in(run.session, batch) for batch in batches if not isinstance(batch, PaddingBatch)]
    return Counts(*found[0]) if len(found) == 1 else Counts(*map(sum, zip(*found, strict=True)))


def catch_up(run: Run, batch: Any) -> None:
    """Take part in a micro-batch in which memory ran out here, with one row of it and gradients of 0.

    Raises:
        DataError: there is not enough for that.
    """
    empty_cache(run.session.strategy.device)
    try:
        run.session.hooks.zero_weight_step(run.model, split(batch, row_count(batch))[0])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _with_one_row() from error


def _with_one_row(where: str = "") -> DataError:
    return DataError(
        f"Memory ran out{where} with one row per micro-batch, which auto_find_batch_size cannot divide. "
        "Shorten the rows, set activation_checkpointing=True, or use a smaller model."
    )


def halve(run: Run, work: StepBatch, failed: bool) -> StepBatch:
    """Return the work with every micro-batch cut into two, since memory ran out; later steps are cut too.

    Args:
        run: the run.
        work: of the step.
        failed: whether memory ran out in this process.

    Raises:
        DataError: a micro-batch is down to one row.
    """
    strategy = run.session.strategy
    run.clear_gradients()
    strategy.forget(run.model)
    run.health.buffers.put_back(True)
    empty_cache(strategy.device)
    ranks = strategy.agree(failed, max(row_count(batch) for batch in work.batches))
    rank, rows = min(((rank, int(rows)) for rank, (out, rows) in enumerate(ranks) if out), key=itemgetter(1))
    where = f" on rank {rank}" if strategy.is_distributed else ""
    if rows == 1:
        raise _with_one_row(where)
    run.pieces *= 2
    run.session.note(
        f"Memory ran out{where} with {rows} rows in a micro-batch; from here on each is computed in {run.pieces} "
        "pieces, and a step keeps its rows."
    )
    parts = zip(work.batches, work.items, work.shares, strict=True)
    batches = [PaddingBatch(batch) if items == 0 else Piece(batch, share) for batch, items, share in parts]
    smaller = _agreed(run, work.position, _in_pieces(run, batches, 2), spare=batches[-1], failure=None, counts=Counts())
    assert smaller is not None
    return smaller


def _in_pieces(run: Run, batches: list[Any], pieces: int) -> list[Any]:
    """Return micro-batches cut into pieces; each weighs as much of the whole as it holds, by targets or else rows."""
    if pieces == 1:
        return batches
    found: list[Any] = []
    for batch in batches:
        parts = split(_opened(batch)[0], pieces)
        if isinstance(batch, PaddingBatch):
            found += map(PaddingBatch, parts)
            continue
        counts = [run.session.objective.count(part) for part in parts]
        share = batch.share if isinstance(batch, Piece) else 1.0
        shares = [count / sum(counts) if sum(counts) else 1 / len(parts) for count in counts]
        found += [Piece(part, share * held) for part, held in zip(parts, shares, strict=True)]
    return found


def _opened(batch: Any) -> tuple[Any, float]:
    """Return a micro-batch as the model is given it, and how much of it that holds: 0 for one that weighs nothing."""
    if isinstance(batch, PaddingBatch):
        return batch.batch, 0.0
    return (batch.batch, batch.share) if isinstance(batch, Piece) else (batch, 1.0)


def _agreed(
    run: Run, position: int, batches: list[Any], *, spare: Any, failure: Exception | None, counts: Counts
) -> StepBatch | None:
    """Return the work that all ranks do together in one step, or None at the end of the data.

    One exchange tells how many micro-batches and items every rank has, whether it has any data, whether it was asked
    to stop, by a signal or by its job, whether its data failed, where it stands in it, and what is in it. All run the
    same number of micro-batches; a rank without rows repeats its last, with weight zero.
    """
    plain, shares, items = [], [], []
    for batch in batches:
        held, share = _opened(batch)
        plain.append(held)
        shares.append(share)
        items.append(run.count(held) * (share if run.session.rule is Rule.MEAN else 1.0) if share else 0)
    strategy = run.session.strategy
    if not strategy.is_distributed:
        if run.stop is not None:
            shutdown.leave(run)
        if failure is not None:
            _fail(run, failure, 0)
        _count(run, counts)
        return StepBatch(position, plain, items, float(sum(items)), shares) if batches else None
    stop = run.signals.received or 0
    asked = run.boundary is not None and not run.boundary.computing and job.asked_to_stop(run.session.callback_handler)
    here = (len(batches), sum(items), spare is not None, stop, asked, failure is not None, position, run.loader.mark)
    with run.timesheet.spending("exchanging"):
        agreed = strategy.agree(*here, run.together.stage, *counts)
    lengths, totals, present, stops, wishes, failures, positions, marks, stages, *sums = zip(*agreed, strict=True)
    run.together.hear(stages)
    run.agreed_stop = int(max(stops)) or None
    if run.agreed_stop is not None:
        shutdown.leave(run)
    if any(failures):
        _fail(run, failure, failures.index(True))
    if any(wishes):
        shutdown.stop(run)
        return None
    dividing.check_marks(marks, run.loader.loader)
    most = int(max(lengths))
    if most == 0:
        return None
    if not all(present):
        raise DataError(
            f"Rank {present.index(False)} got no data while others did; divide the data evenly among the ranks."
        )
    added, total = most - len(batches), float(sum(strategy.one_per_shard(totals)))
    run.own_rows += int(counts.rows)
    _count(run, Counts(*(sum(strategy.one_per_shard(column)) for column in sums)))
    position = int(max(positions))  # a rank whose data has ended stands still
    return StepBatch(position, plain + [_opened(spare)[0]] * added, items + [0] * added, total, shares + [0.0] * added)


def _count(run: Run, counts: Counts) -> None:
    """Add what is in a step, of all ranks, to what the run has done."""
    run.session.state.total_flos += counts.operations
    run.session.state.num_input_tokens_seen += int(counts.tokens)
    run.rows += int(counts.rows)
    run.throughput.add(counts.useful, counts.real_tokens)


def _fail(run: Run, failure: Exception | None, rank: int) -> NoReturn:
    """Save what is done, and raise what happened to the data of a rank."""
    shutdown.save_together(run, failure or DataError("on another rank"))
    if failure is None:
        raise DataError(f"The data of rank {rank} failed, so all ranks stop; its own message says why.")
    raise failure


def _check_targets(run: Run, total: float) -> None:
    if total > 0:
        run.targets_seen = True
        return
    run.symptoms.without_targets()
    step = run.session.state.global_step + 1
    if not run.targets_seen and step >= min(_STEPS_WITHOUT_TARGETS, run.max_steps, run.loader.steps_per_epoch or step):
        if run.session.own_objective is not None:
            name = type(run.session.own_objective).__name__
            raise DataError(
                f"{name}.count returned 0 for every batch up to step {step}, so there is nothing to learn from."
            )
        raise DataError(
            f"All labels up to step {step} are -100, which means 'no target', so there is nothing to learn from. "
            "Check how the labels are made (masking of prompts, truncation that cuts off the answers)."
        )
