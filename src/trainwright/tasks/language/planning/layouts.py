"""What each layout of some processes needs, found on the meta device: memory by parts, and bytes on the network.

Everything is of one process at the peak of a step, which lies where the backward pass begins, with all activations, or
where it ends, with all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from trainwright.config.reading.translate import argument_values
from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError
from trainwright.models.inspect import base_model
from trainwright.parallel.blocks import blocks_of
from trainwright.parallel.layouts.layout import Layout
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.tasks.language.planning import memory
from trainwright.training.disk import bytes_in_words
from trainwright.world import choose_device, current_world

_ROOM = 0.9  # of the memory: the rest is the allocator's, and the device's own
_MOST_ROWS = 1024
_AT_FIRST, _AT_LAST = 2, 4  # layers' worth of parameters and gradients in buffers, as a backward pass begins and ends


@dataclass(frozen=True)
class Sizes:
    """Bytes of a whole run, and of a micro-batch, that no layout changes.

    Attributes:
        weights: of the model and others beside it, such as a reference.
        trained: of what is trained; gradients take as much.
        moments: of the optimizer and a moving average.
        used: of the model in the format in which it is gathered and computes.
        reduced: of gradients in the format in which they are added up.
        ends: of what stays gathered from the forward to the backward pass: embeddings, the output layer, last norms.
        block: of the layer that is gathered at a time.
        row: of activations that one row keeps for its backward pass.
        again: of activations of a row that one layer computes again, where it does.
        logits: of the chunk that exists at a time.
        micro_batches: of a step.
    """

    weights: int
    trained: int
    moments: int
    used: int
    reduced: int
    ends: int
    block: int
    row: int
    again: int
    logits: int
    micro_batches: int


@dataclass(frozen=True)
class Need:
    """What one process of a layout needs, in bytes.

    Attributes:
        layout: of the processes.
        rows: of a micro-batch.
        reduce_often: whether gradients are reduced in every micro-batch.
        parameters, moments, gradients, activations, logits, buffers: each at its most; buffers are what is gathered,
            and what gradients are exchanged in.
        peak: the most at a time: activations go as gradients come.
        sent: in a step.
    """

    layout: Layout
    rows: int
    reduce_often: bool
    parameters: int
    moments: int
    gradients: int
    activations: int
    logits: int
    buffers: int
    peak: int
    sent: int


def sizes_of(config: TrainingConfig) -> Sizes:
    """Return what a run's file says of its sizes.

    Raises:
        ConfigError: that is not estimated of the method's models.
    """
    method, length = memory.method_and_length(config)
    found = memory.estimate(config, 1, length, method)
    model = memory.trained_model(config, method).model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if config.fsdp.mixed_precision == "bf16":
        model.to(torch.bfloat16)
    used, blocks = _bytes(model), [_bytes(block) for block in blocks_of(base_model(model), Sharding())]
    row, again = memory.saved_bytes(model, method.sequences, length), 0
    if argument_values(config.training)["activation_checkpointing"]:
        kept = memory.saved_bytes(model.eval(), method.sequences, length)  # nothing is computed again in evaluation
        again = (kept - row) // max(len(blocks), 1)
    return Sizes(
        weights=found.weights - found.average, trained=found.gradients, moments=found.optimizer + found.average,
        used=used, reduced=trained * next(model.parameters()).element_size(), ends=used - sum(blocks),
        block=max(blocks, default=used), row=row, again=max(again, 0), logits=found.logits,
        micro_batches=config.training.gradient_accumulation_steps,
    )  # fmt: skip


def check_tensor(config: TrainingConfig) -> None:
    """See whether the layers of a file's model can be divided as its section `fsdp` asks; of models that are not
    described without their weights, nothing.

    Raises:
        ConfigError: they cannot.
    """
    processes = (config.fsdp.tensor or 1) if config.fsdp.enable_fsdp else 1
    if processes == 1:
        return
    from trainwright.parallel.tensor import styles_of  # FSDP2 and DTensor are loaded where they are used

    try:
        method, _ = memory.method_and_length(config)
    except ConfigError:
        return
    styles_of(base_model(memory.trained_model(config, method).model), processes)


def _bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def need(sizes: Sizes, layout: Layout, rows: int, reduce_often: bool = False) -> Need:
    """Return what a process of a layout needs with micro-batches of some rows.

    Args:
        sizes: of the run.
        layout: of the processes; with one shard they are data parallel (DDP).
        rows: of a micro-batch.
        reduce_often: whether gradients are reduced in every micro-batch, so that a process keeps its part alone.
    """
    shards = layout.shard
    whole = shards == 1 or (sizes.micro_batches > 1 and not reduce_often)
    gradients = sizes.trained if whole else sizes.trained // shards
    before = gradients if sizes.micro_batches > 1 else 0  # of the micro-batches before
    if shards == 1:
        at_first = at_last = sizes.trained if layout.size > 1 else 0  # DistributedDataParallel's buckets
    else:
        at_first, at_last = (sizes.ends + many * sizes.block for many in (_AT_FIRST, _AT_LAST))
    again = sizes.again * rows
    begins = before + sizes.row * rows + max(again, sizes.logits) + at_first
    parameters, moments = sizes.weights // shards, sizes.moments // shards
    return Need(
        layout, rows, reduce_often, parameters, moments, gradients, activations=sizes.row * rows + again,
        logits=sizes.logits, buffers=at_last, peak=parameters + moments + max(begins, gradients + again + at_last),
        sent=sent(sizes, layout, reduce_often),
    )  # fmt: skip


def sent(sizes: Sizes, layout: Layout, reduce_often: bool = False) -> int:
    """Return the bytes that a process sends in a step: rings pass (n - 1)/n of what is gathered or added up to each."""
    shards, copies = layout.shard, layout.replicate
    total = 0.0
    if shards > 1:
        gathered = 2 * sizes.used - sizes.ends  # forward, and all but the ends again backward
        reduced = sizes.reduced * (sizes.micro_batches if reduce_often else 1)
        total += (gathered * sizes.micro_batches + reduced) * (shards - 1) / shards
    if copies > 1:
        total += 2 * (sizes.reduced if shards > 1 else sizes.trained) / shards * (copies - 1) / copies
    return round(total)


def layouts(processes: int, per_machine: int) -> Iterator[Layout]:
    """Yield the layouts of some processes, those that talk least first: copies, copies on each machine, one copy."""
    yield Layout(replicate=processes)
    if 1 < per_machine < processes and processes % per_machine == 0:
        yield Layout(replicate=processes // per_machine, shard=per_machine)
    if processes > 1:
        yield Layout(shard=processes)


def best(sizes: Sizes, processes: int, per_machine: int, rows: int, room: float) -> Need | None:
    """Return the layout that fits and talks least between machines, or None where none fits."""
    found = (need(sizes, one, rows, often) for one in layouts(processes, per_machine) for often in (False, True))
    return next((one for one in found if fits(one, room)), None)


def fits(one: Need, room: float) -> bool:
    """Whether a need fits a device of so many bytes."""
    return one.peak <= room * _ROOM


def most_rows(sizes: Sizes, layout: Layout, room: float) -> int:
    """Return the most rows of a micro-batch that fit, a power of two; 0 where none does."""
    rows = 1
    while rows <= _MOST_ROWS and fits(need(sizes, layout, rows, True), room):
        rows *= 2
    return rows // 2


def overrides(one: Need) -> list[str]:
    """Return what asks for a layout in a run's file."""
    if one.layout.shard == 1:
        return []
    often = ["fsdp.reduce_gradients=micro_batch"] if one.reduce_often else []
    counts = [f"fsdp.replicate={one.layout.replicate}", f"fsdp.shard={one.layout.shard}"]
    return ["fsdp.enable_fsdp=true", *counts, *often]


def chosen_here(config: TrainingConfig) -> list[str]:
    """Return what asks for the best layout of the processes that run, on devices like this process's.

    Raises:
        ConfigError: none fits, or a part of it is given.
    """
    if (config.fsdp.tensor or 1) > 1:
        raise ConfigError(
            f"--shard auto chooses the layout, and tensor={config.fsdp.tensor} is a part of it. Give --shard N."
        )
    world, rows = current_world(), config.training.per_device_train_batch_size
    everyone, here = world.counts
    device = choose_device(world, use_cpu=config.training.use_cpu)
    room: float = psutil.virtual_memory().total / here
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory
    sizes = sizes_of(config)
    found = best(sizes, everyone, here, rows, room)
    if found is None:
        least = min(need(sizes, one, rows, True).peak for one in layouts(everyone, here))
        raise ConfigError(
            f"No layout of {everyone} processes fits: {bytes_in_words(least)} at least, where each has "
            f"{bytes_in_words(int(room))}. Start more processes, or set training.enable_gradient_checkpointing=true or "
            "fewer rows in a micro-batch."
        )
    return overrides(found)
