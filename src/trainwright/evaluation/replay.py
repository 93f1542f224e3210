"""Any step of the past, shown again: which rows it read, and what their losses were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainwright import randomness
from trainwright.checkpoint import layout
from trainwright.checkpoint.model import weights
from trainwright.data.loaders.loader import PlannedBatches
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.sampling.plan import Batching, Order, Plan
from trainwright.errors import CheckpointError, ConfigError, as_raised
from trainwright.losses.loss_source import of_itself
from trainwright.saving.parts import average_in
from trainwright.session import ema
from trainwright.session.meters import Records
from trainwright.session.model_setup import as_it_was
from trainwright.session.session import Session

_SHOWN = 100  # characters of a row's text


@dataclass
class Row:
    """A row that a step read.

    Attributes:
        index: its number in the dataset.
        shown: its text, or its fields with their shapes; empty where the data is not at hand.
        loss: its own mean loss under the checkpoint before the step, if that was asked for.
    """

    index: int
    shown: str = ""
    loss: float | None = None


@dataclass
class Step:
    """A step of the past: the pass it belongs to (from 1), its rows in order, and the checkpoint before it."""

    number: int
    epoch: int
    rows: list[Row]
    checkpoint: Path | None


@as_raised
def replay(session: Session, step: int, loss: bool = False) -> Step:
    """Return the rows of a past step of this Trainer's run, and their losses before it; the model stays as it is.

    Args:
        session: as it was built for the run.
        step: its number, from 1.
        loss: whether to compute each row's loss under the nearest earlier checkpoint.

    Raises:
        CheckpointError: the run's folder does not tell the order, or has no earlier checkpoint.
    """
    drawing = randomness.Drawing(session.args.seed, data=session.train_dataset, collator=session.data_collator)
    return drawing.make(lambda: _replayed(session, step, loss), step)  # draws nothing of the script's


def _replayed(session: Session, step: int, loss: bool) -> Step:
    batches = session.hooks.get_train_dataloader().batch_sampler
    lengths = batches.plan.order.lengths if isinstance(batches, PlannedBatches) else None
    found = find_step(session.run_folder, step, lengths)
    for row in found.rows:
        row.shown = shown(session.train_dataset, session.processing_class, row.index)
    if loss:
        if found.checkpoint is None:
            raise CheckpointError(f"There is no whole checkpoint before step {step} in '{session.run_folder}'.")
        model = session.model.to(session.strategy.device)
        with session.recording(Records()), as_it_was(model):  # what the loss records is of no step
            weights.load_model(model, found.checkpoint)
            ema.put(model, average_in(session, found.checkpoint).get("last", {}))
            for row in found.rows:
                row.loss = row_loss(session, row.index)
    return found


def find_step(output_dir: Path, step: int, lengths: Any = None) -> Step:
    """Return which rows a step of a run read; the checkpoints tell the order.

    Args:
        output_dir: the run's folder.
        step: its number, from 1.
        lengths: of the rows, for `group_by_length`.

    Raises:
        CheckpointError: there is no checkpoint, or no such step, or the data had no planned order.
    """
    told = [path for path in layout.checkpoints(output_dir) if (path / layout.RUN).exists()]
    if not told:
        raise CheckpointError(f"'{output_dir}' has no checkpoint of this engine, to tell the order of the data.")
    total = json.loads((told[-1] / layout.STATE).read_text(encoding="utf-8"))["max_steps"]
    if step > total:
        raise CheckpointError(f"There is no step {step}: the run in '{output_dir}' has {total}.")
    before = [path for path in told if layout.step_of(path) < step]
    about = json.loads(((before or told)[-1 if before else 0] / layout.RUN).read_text(encoding="utf-8"))
    if about["data"]["kind"] != "planned":
        raise CheckpointError(
            "The run read a stream or a ready loader, whose order is not a plan, so its steps cannot be shown again."
        )
    plan = plan_of(about["data"], lengths)
    start = layout.step_of(before[-1]) if before else 0
    epoch, position = (about["epoch"], about["position"]) if before else (0, 0)
    left = step - 1 - start
    while left >= plan.steps_left(position):
        left -= plan.steps_left(position)
        epoch, position = epoch + 1, 0
    position += left * plan.batching.step_rows
    rows = [Row(int(index)) for ranks in plan.step(epoch, position) for chunk in ranks for index in chunk]
    return Step(step, epoch + 1, rows, before[-1] if before else None)


def plan_of(data: Mapping[str, Any], lengths: Any) -> Plan:
    """Return the plan that a checkpoint describes.

    Raises:
        ConfigError: the order depends on the rows' lengths, which are not at hand, or on rows that there were before.
    """
    if data.get("first_rows") is not None:
        raise ConfigError(
            f"The data of this run had {data['first_rows']} rows at first and {data['num_rows']} later: the rows of a "
            "step cannot be told."
        )
    if data["sampling"] == "group_by_length" and lengths is None:
        raise ConfigError(
            "The order of this run depends on the lengths of its rows. Call trainer.replay(step) on the Trainer of its "
            "script, which has them."
        )
    order = Order(data["num_rows"], data["sampling"], data["seed"], lengths, data["group_rows"])
    return Plan(order, Batching(data["batch_size"], data["accumulation"], data["ranks"], data["drop_last"]))


def shown(rows: Any, tokenizer: Any, index: int) -> str:
    """Return a row of the training data as text; of a packed row every document, on a line of its own."""
    if not isinstance(rows, PackedRows):
        return describe(tokenizer, rows[index])
    documents = [describe(tokenizer, one) for one in rows.documents(index)]
    return "".join(f"\n  document {number}  {text}" for number, text in enumerate(documents, start=1))


def describe(tokenizer: Any, row: Any) -> str:
    """Return a row as text where there is a tokenizer, else its fields with their shapes or values."""
    if not isinstance(row, Mapping):
        return repr(row)[:_SHOWN]
    decode = getattr(tokenizer, "decode", None)
    if decode is not None and "input_ids" in row:
        return repr(decode(row["input_ids"], skip_special_tokens=False)[:_SHOWN])
    return ", ".join(f"{name} {_shape(value)}" for name, value in row.items())


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return str(tuple(shape))
    return f"({len(value)},)" if isinstance(value, list) else repr(value)[:_SHOWN]


@torch.no_grad()
def row_loss(session: Session, index: int) -> float:
    """Return the mean loss of one row, without dropout."""
    rows: Any = session.hooks.get_train_dataloader().dataset
    batch = session.strategy.to_device(rows.collate([session.train_dataset[index]]))
    model = session.model.eval()
    with session.hooks.compute_loss_context_manager():
        return float(session.hooks.one_loss(session.hooks.compute_loss(model, batch, **of_itself(session, batch))))
