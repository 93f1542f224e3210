"""What each layout of some processes needs, found on the meta device: memory by parts, and bytes on the network.

Everything is of one process at the peak of a step, which lies where the backward pass begins, with all activations, or
where it ends, with all gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import psutil
import torch

from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError
from trainwright.parallel.layouts.layout import Layout
from trainwright.tasks.language.planning.sizes import Sizes, by_tensor
from trainwright.training.disk import bytes_in_words
from trainwright.world import choose_device, current_world

_ROOM = 0.9  # of the memory: the rest is the allocator's, and the device's own
_MOST_ROWS = 1024
_AT_FIRST, _AT_LAST = 2, 4  # layers' worth of parameters and gradients in buffers, as a backward pass begins and ends


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


def need(sizes: Sizes, layout: Layout, rows: int, reduce_often: bool = False) -> Need:
    """Return what a process of a layout needs with micro-batches of some rows.

    Args:
        sizes: of the run.
        layout: of the processes; with one shard they are data parallel (DDP).
        rows: of a micro-batch.
        reduce_often: whether gradients are reduced in every micro-batch, so that a process keeps its part alone.
    """
    shards, alone = layout.shard, layout.shard == layout.tensor == 1
    whole = shards == 1 or (sizes.micro_batches > 1 and not reduce_often)
    gradients = sizes.trained if whole else sizes.trained // shards
    before = gradients if sizes.micro_batches > 1 else 0  # of the micro-batches before
    if alone:
        at_first = at_last = sizes.trained if layout.size > 1 else 0  # DistributedDataParallel's buckets
    else:
        at_first, at_last = (sizes.ends + many * sizes.block for many in (_AT_FIRST, _AT_LAST))
    again = sizes.again * rows
    begins = before + sizes.row * rows + max(again, sizes.logits) + at_first
    parameters, moments = sizes.weights // shards, sizes.moments // shards
    return Need(
        layout, rows, reduce_often, parameters, moments, gradients, activations=sizes.row * rows + again,
        logits=sizes.logits, buffers=at_last, peak=parameters + moments + max(begins, gradients + again + at_last),
        sent=sent(sizes, layout, rows, reduce_often),
    )  # fmt: skip


def sent(sizes: Sizes, layout: Layout, rows: int, reduce_often: bool = False) -> int:
    """Return the bytes that a process sends in a step: rings pass (n - 1)/n of what is gathered or added up to each."""
    shards, copies = layout.shard, layout.replicate
    total = float(sizes.talk * rows * sizes.micro_batches)
    if shards > 1:
        gathered = 2 * sizes.used - sizes.ends  # forward, and all but the ends again backward
        reduced = sizes.reduced * (sizes.micro_batches if reduce_often else 1)
        total += (gathered * sizes.micro_batches + reduced) * (shards - 1) / shards
    if copies > 1:
        whole = sizes.trained if shards == layout.tensor == 1 else sizes.reduced
        total += 2 * whole / shards * (copies - 1) / copies
    return round(total)


def layouts(processes: int, per_machine: int, tensor: int = 1) -> Iterator[Layout]:
    """Yield the layouts of some processes of which `tensor` divide layers, those that talk least first: copies, copies
    on each machine, one copy."""
    groups, here = processes // tensor, per_machine // tensor
    yield Layout(replicate=groups, tensor=tensor)
    if 1 < here < groups and groups % here == 0:
        yield Layout(replicate=groups // here, shard=here, tensor=tensor)
    if groups > 1:
        yield Layout(shard=groups, tensor=tensor)


def needs(sizes: Sizes, processes: int, per_machine: int, rows: int) -> Iterator[Need]:
    """Yield what the layouts of some processes need."""
    for one in layouts(processes, per_machine, sizes.tensor):
        yield need(sizes, one, rows)
        if sizes.micro_batches > 1 and one.shard > 1:
            yield need(sizes, one, rows, True)


def best(found: Iterable[Need], room: float) -> Need | None:
    """Return of some needs, those that talk least first, the first that fits, or None where none does."""
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
    if one.layout.shard == one.layout.tensor == 1:
        return []
    counts = asdict(one.layout) if one.layout.tensor > 1 else asdict(one.layout) | {"tensor": None}
    often = ["fsdp.reduce_gradients=micro_batch"] if one.reduce_often else []
    asked = [f"fsdp.{name}={count}" for name, count in counts.items() if count is not None]
    return ["fsdp.enable_fsdp=true", *asked, *often]


def chosen_here(config: TrainingConfig) -> list[str]:
    """Return what asks for the best layout of the processes that run, on devices like this process's; layers are
    divided only where nothing else fits.

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
    least = math.inf
    for sizes in by_tensor(config, everyone, here):
        found = [*needs(sizes, everyone, here, rows)]
        if (one := best(found, room)) is not None:
            return overrides(one)
        least = min(least, *(one.peak for one in found))
    raise ConfigError(
        f"No layout of {everyone} processes fits: {bytes_in_words(int(least))} at least, where each has "
        f"{bytes_in_words(int(room))}. Start more processes, or set training.enable_gradient_checkpointing=true or "
        "fewer rows in a micro-batch."
    )
