"""Who divides the data among the ranks: we, unless it is divided already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from torch.utils.data import DataLoader

from trainwright.data.divided import Share, divides_itself, drawn_alike, each_once, held, of_batches, relation, shares
from trainwright.data.introspection import is_prepared, is_stream, length_of
from trainwright.data.loaders.loader import PlannedBatches, samplers
from trainwright.data.loaders.rows import as_it_is
from trainwright.data.loaders.streams import RankStream
from trainwright.data.loaders.wrapped_loaders import DrawnSource, EveryNth
from trainwright.errors import ConfigError, DataError
from trainwright.parallel.strategy import Strategy
from trainwright.session.session import Session
from trainwright.world import DataShard

TRAINING, EVALUATION, DATA = "training data", "evaluation data", "data"


def shard_of(session: Session, data: Any) -> DataShard:
    """Return which part of a dataset or loader this rank is to read: all of it where it is divided already."""
    shard = session.strategy.data_shard
    if shard.num_shards == 1 or data is None:
        return shard
    inner = getattr(data, "dataset", None)
    known = any(one is data or one is inner for one in session.apart)
    return DataShard() if known or divides_itself(data) else shard


def look(session: Session, data: Any, what: str, loader: Any = None) -> None:
    """Note whether the ranks hold parts of one whole; all of them ask at the same place.

    Args:
        session: whose ranks.
        data: a dataset.
        what: how it is called.
        loader: the ready one that reads it.

    Raises:
        DataError: they hold the same rows in other orders, or parts that overlap, or it is divided twice, or not among
            these ranks.
        ConfigError: they hold parts of other sizes.
    """
    strategy = session.strategy
    if strategy.data_shard.num_shards == 1 or data is loader is None:
        return
    said, is_known = shares(data if loader is None else loader), any(one is data for one in session.apart)
    mine = {} if data is None or is_known or divides_itself(data) else held(data)
    everyone = strategy.gather_shards((said, mine))
    check_shares([of_rank for of_rank, _ in everyone], what)
    how, differs = relation([of_rank for _, of_rank in everyone])
    if how == "mixed":
        raise DataError(
            f"The {what} is another on every rank, and much of it is on several of them, so it is neither one whole "
            "nor its parts. Give every rank the same rows in the same order (shuffle with one seed), or each its own."
        )
    if how == "open":
        raise DataError(
            f"The ranks hold other values in {', '.join(differs)} of the {what}, a {type(data).__name__}, so it may be "
            "one whole or its parts. If every rank holds all rows, let them be the same (one seed for what is drawn). "
            "If each holds its own, let it say so: two attributes, num_replicas and rank, as torch's "
            "DistributedSampler has them."
        )
    if how == "apart":
        lengths = [size for size in strategy.gather_shards(length_of(data)) if size is not None]
        other = next((rank for rank, size in enumerate(lengths) if abs(size - lengths[0]) > 1), None)
        if other is not None:
            raise ConfigError(
                f"The ranks are not alike: the number of rows of the {what} is {lengths[0]} on rank 0 and "
                f"{lengths[other]} on rank {other}. Give every rank the same rows, or parts that differ by one at most."
            )
        session.apart.append(data)
        rows = f" ({' + '.join(map(str, lengths))} rows)" if lengths else ""
        session.note(f"Every rank holds its own part of the {what}{rows}, so it is not divided again.")
    twice = [share.kind for share in said if share.known]
    if len(twice) > 1 or (twice and (is_known or how == "apart")):
        raise DataError(
            f"The {what} is divided twice, so rows would be left out: by the {twice[0]}, and "
            f"{'before' if len(twice) == 1 else f'by the {twice[1]}'}. Divide it once, or leave that to the Trainer."
        )


def check_shares(everyone: Sequence[list[Share]], what: str) -> None:
    """Check what all ranks say of their parts: as many as there are ranks, and each another one.

    Raises:
        DataError: rows would be read by no rank, or by several.
    """
    ranks = len(everyone)
    for share in chain.from_iterable(everyone):
        if share.parts != ranks:
            raise DataError(
                f"The {share.kind} divides the {what} into {share.parts} parts, but there are {ranks} ranks. Divide it "
                f"into {ranks}, one for each rank, or leave that to the Trainer."
            )
    for each in zip(*everyone, strict=False):
        first: dict[int, int] = {}
        for rank, share in enumerate(each):
            if first.setdefault(share.own, rank) != rank:
                raise DataError(
                    f"The {share.kind} gives rank {first[share.own]} and rank {rank} the same part of the {what} "
                    f"(number {share.own} of {ranks}). Give it each rank's own number, or leave that to the Trainer."
                )


def shard_of_loader(session: Session, loader: Any) -> DataShard:
    """Return which part of a ready loader this rank is to read; all of them ask at the same place."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, RankStream):  # it was looked at before it was made
        return dataset.shard
    look(session, dataset, DATA, loader)
    shard = shard_of(session, loader)
    return DataShard() if shard.num_shards > 1 and draws_apart(session.strategy, session.note, loader) else shard


def draws_apart(strategy: Strategy, note: Callable[[str], None], loader: Any) -> bool:
    """Whether a ready loader has a sampler of the user's own that gives every rank other rows, as theirs alone."""
    if type(loader) is not DataLoader or is_stream(loader.dataset):
        return False
    own = [one for one in (*samplers(loader), loader.batch_sampler) if one is not None]
    if all(type(one).__module__.startswith("torch.utils.data") for one in own):
        return False
    before = [(one, dict(vars(one))) for one in own if hasattr(one, "__dict__")]
    rows = list(chain.from_iterable(DrawnSource(loader, 0, DataShard(), as_it_is).drawn_ahead()))
    for one, attributes in before:  # such as how often it was asked
        vars(one).clear()
        vars(one).update(attributes)
    mine = rows if len(rows) < len(loader.dataset) else None  # type: ignore[arg-type]  # a sampler has asked, too
    everyone = strategy.gather_shards(mine)
    if any(one is None for one in everyone) or len(set(chain.from_iterable(everyone))) < sum(map(len, everyone)):
        return False
    rows_each = " + ".join(str(len(one)) for one in everyone)
    note(f"The sampler gives every rank rows of its own ({rows_each}), so they are not divided again.")
    return True


def for_evaluation(session: Session, loader: Any) -> Any:
    """Return what gives this rank's batches of an evaluation loader, each row once.

    Raises:
        ConfigError: it is one of accelerate's that repeats rows.
    """
    dataset, strategy = getattr(loader, "dataset", None), session.strategy
    planned = isinstance(getattr(loader, "batch_sampler", None), PlannedBatches)
    if strategy.data_shard.num_shards == 1 or planned or isinstance(dataset, RankStream):
        return loader
    loader = of_accelerate(loader) if is_prepared(loader) else loader
    shard, seed = shard_of_loader(session, loader), session.args.seed
    if shard.num_shards > 1:
        return EveryNth(loader, shard, seed)
    batches = drawn_alike(loader, seed)
    if batches is None:
        return loader
    if shard_of(session, dataset).num_shards > 1:  # all ranks have the same rows
        everyone = strategy.gather_shards(batches)
        batches = each_once(everyone, len(loader.dataset))[strategy.data_shard.index]
    return of_batches(loader, batches)


def of_accelerate(loader: Any) -> Any:
    """Return the torch DataLoader within one that accelerate has prepared.

    Raises:
        ConfigError: it repeats rows that cannot be told from others, or reads them on one process for all.
    """
    inner = getattr(loader, "base_dataloader", None)
    if type(inner) is not DataLoader or is_stream(inner.dataset) or type(loader).__name__ == "DataLoaderDispatcher":
        raise ConfigError(
            f"The evaluation loader comes from accelerate ({type(loader).__name__}), which repeats rows to divide them "
            "among processes; give the DataLoader itself, whose every row is then evaluated once."
        )
    return inner


def check_marks(marks: Sequence[float], loader: Any) -> None:
    """Check that all ranks have read the same, of which each keeps its share.

    Raises:
        DataError: they have not, so that rows would be lost.
    """
    if len({mark for mark in marks if mark}) > 1:
        dataset = getattr(loader, "dataset", None)
        kind = type(dataset.stream if isinstance(dataset, RankStream) else getattr(loader, "batches", loader)).__name__
        raise DataError(
            f"The {kind} gives every rank other rows, so each would keep a share of its own part and lose the rest. If "
            "it divides its rows among the ranks, let it say so: two attributes, num_replicas and rank, as torch's "
            "DistributedSampler has them. If not, let all ranks read the same (one seed for what it draws)."
        )
