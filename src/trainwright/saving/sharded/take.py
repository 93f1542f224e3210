"""Saving a run whose state is spread over processes: each takes and writes its part (`checkpoint/sharded`)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainwright.checkpoint import folder, layout
from trainwright.checkpoint.layout import Share
from trainwright.checkpoint.model import adapters
from trainwright.checkpoint.sharded.slices import OFFSETS
from trainwright.checkpoint.sharded.snapshot import own_slices
from trainwright.checkpoint.sharded.trees import split
from trainwright.checkpoint.sharded.weights import Contents, contents_of, nbytes
from trainwright.checkpoint.writer import PendingCheckpoint, not_written
from trainwright.losses.eval_context import averaged
from trainwright.losses.out_of_memory import is_out_of_memory
from trainwright.saving.contents import rank_state, trees, write_progress
from trainwright.saving.model_files import write_around
from trainwright.saving.outcome import checkpoint_folder
from trainwright.session.model_setup import users_configuration
from trainwright.session.run import Run

Tensors = dict[str, torch.Tensor]


def take(run: Run, early: bool) -> PendingCheckpoint:
    """Return this process's part of a checkpoint: what is small is written, what is large is copied to the host.

    All processes call it at the same place.

    Args:
        run: the run.
        early: whether an evaluation follows.

    Raises:
        UnsavableError: the state of a process holds a value that no checkpoint can keep.
        SaveError: the folder cannot be written; nothing is left of it.
    """
    session, strategy = run.session, run.session.strategy
    place = checkpoint_folder(session)
    if session.state.best_global_step == session.state.global_step:
        session.state.best_model_checkpoint = str(place)
    own, found = strategy.on_all(lambda: (rank_state(run), trees(run, of_ranks=False)))
    parts = {file: split(tree) for file, tree in found.items() if file not in layout.JSON}
    objects = {file: tree for file, (tree, _) in parts.items()}
    if not session.args.save_only_model:
        ranks = strategy.gather_shards(own)
        objects |= {layout.of_rank(number, len(ranks)): state for number, state in enumerate(ranks)}
    finite = run.health.finite_parameters()
    slices = {file: own_slices(strategy, spread) for file, (_, spread) in parts.items() if spread}
    with averaged(session.ema, session.model), users_configuration(session):
        contents = strategy.on_all(lambda: contents_of(session.model, strategy.share.count))
        run.together.owned.take(strategy, contents.tensors, contents.owner)
        temporary = strategy.on_main(lambda: begun(run, place, found, contents))
    draft = part_of(run, place, temporary, objects if strategy.is_main else {}, slices)
    draft.finite, draft.early = finite, early
    if strategy.is_main:
        draft.texts = {layout.STATE: run.history.file_of(replace(session.state, **found.get(layout.STATE, {})))}
        draft.keep, draft.best = session.args.save_total_limit, session.state.best_model_checkpoint
        draft.size += contents.nbytes + sum(nbytes(one) for _, spread in parts.values() for one in spread.values())
    copy_part(run, draft)
    if run.together.owned.tensors and not contents.adapters:
        written = contents.written(session.model, dict(run.together.owned.tensors), strategy.share.index)
        draft.tensors[layout.of_share(layout.WEIGHTS, strategy.share)] = (written, {})
    return draft


def begun(run: Run, place: Path, found: dict[str, Any], contents: Contents) -> Path:
    """Open the temporary folder and write the small files that belong to no process in particular.

    Raises:
        SaveError: that cannot be done; nothing is left of it.
    """
    session, temporary = run.session, None
    try:
        temporary = folder.open_temporary(place)
        write_around(session, temporary, contents, run.together.owned, adapters.save)
        shares = {Share(number, session.strategy.share.count) for number in contents.owner.values()}
        files = set() if contents.adapters else {Path(layout.of_share(layout.WEIGHTS, one)) for one in shares}
        run.model_files = folder.files_in(temporary) | files
        write_progress(run, temporary, found)
        return temporary
    except Exception as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise not_written(place, error) from error


def part_of(
    run: Run,
    place: Path,
    temporary: Path,
    objects: dict[str, Any],
    slices: dict[str, tuple[Tensors, dict[str, tuple[int, ...]]]],
) -> PendingCheckpoint:
    """Return the draft of what this process writes, but for the weights, which are on the host already."""
    share = run.session.strategy.share
    draft = PendingCheckpoint(place, run.past, temporary, objects=objects, shared=True)
    for file, (tensors, offsets) in slices.items():
        if tensors:
            draft.tensors[layout.of_share(file, share)] = (tensors, {OFFSETS: json.dumps(offsets)})
    return draft


def copy_part(run: Run, draft: PendingCheckpoint) -> None:
    """Copy what is not on the host yet; where memory is short this process waits until it is written."""
    try:
        copied = run.copies.take({"tensors": draft.tensors, "objects": draft.objects, "finite": draft.finite})
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        run.copies.release()
        run.session.note(f"There is no memory for a copy of the state: training waits until {draft.place} is written.")
        return
    draft.tensors, draft.objects, draft.finite = copied["tensors"], copied["objects"], copied["finite"]
    draft.copies = run.copies
