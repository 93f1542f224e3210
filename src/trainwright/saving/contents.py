"""What a checkpoint of a run holds besides the weights, and whether someone else's code wants to see it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from trainwright.args.training import saved_arguments
from trainwright.batch import map_tensors
from trainwright.checkpoint import layout, parts
from trainwright.saving import agreement, step_boundary
from trainwright.saving.parts import renew
from trainwright.session.run import Run
from trainwright.session.session import Hooks


def synchronous(run: Run) -> bool:
    """Whether the loop waits for a save: where code that is not ours is called with the folder, on any rank."""
    session = run.session
    if session.args.push_to_hub or saves_its_own_way(session.hooks):
        return True
    return run.heard_saving or agreement.foreign(session.callback_handler, "save")


def saves_its_own_way(hooks: Hooks) -> bool:
    """Whether a subclass saves in a way of its own."""
    methods = (getattr(type(hooks), name) for name in ("save_model", "_save_checkpoint"))
    return any(method.__module__ != "trainwright.trainer.trainer" for method in methods)


def rank_state(run: Run) -> dict[str, Any]:
    """Return what a checkpoint keeps for every rank, such as randomness and the place in the data."""
    renew(run)
    state: dict[str, Any] = trees(run, of_ranks=True).get(layout.RANK, {})
    if run.session.strategy.is_distributed:  # it goes to the first rank through the hosts
        return {name: map_tensors(one, lambda tensor: tensor.cpu()) for name, one in state.items()}
    return state


def trees(run: Run, of_ranks: bool) -> dict[str, Any]:
    """Return what is written by file: of the parts of every rank, or of the run; see `checkpoint/parts.py`."""
    whole = not run.session.args.save_only_model
    asked = {n: part for n, part in run.parts.items() if part.of_ranks == of_ranks and (whole or part.with_model)}
    return parts.trees(asked, {} if run.boundary is None else run.boundary.states)


def write_progress(run: Run, place: Path, found: dict[str, Any]) -> None:
    """Write how far the run is, what is due, and what it was started with, as JSON, with the parts that live there.

    The best checkpoint's path is relative to the run's folder, which may be moved or copied; that in
    `trainer_state.json`, which transformers reads, is as it is here and now.
    """
    session = run.session
    best = session.state.best_model_checkpoint
    about = {
        "run": run.run_id,
        "best": os.path.relpath(best, run.folder) if best is not None else None,
        "epoch": run.epoch,
        "position": run.position,
        "open": run.open,
        "due": step_boundary.due(run),
        "data": {**run.loader.describe(), "asked": run.accumulation, "steps": run.loader.steps_per_epoch},
        "content": run.content,
        "ranks": session.strategy.data_shard.num_shards,
        "drawn_apart": True,
        "made_with": run.made_with,
        "arguments": saved_arguments(session.args),
        "versions": {"torch": torch.__version__},
        **found.get(layout.RUN, {}),
    }
    (place / layout.RUN).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
