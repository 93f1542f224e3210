"""The sizes of a run, found on the meta device, of which follows what each layout of some processes needs."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from typing import Any

import torch

from trainwright.config.reading.read import check
from trainwright.config.reading.translate import argument_values
from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError
from trainwright.models.inspect import base_model
from trainwright.parallel.blocks import blocks_of
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.tasks.language.planning import memory


@dataclass(frozen=True)
class Sizes:
    """Bytes of a whole run, and of a micro-batch, that no number of copies and shards changes; where processes divide
    layers, of one of these.

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
        tensor: processes that divide layers.
        talk: sent for a row to those that do so with this process.
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
    tensor: int = 1
    talk: int = 0


def sizes_of(config: TrainingConfig) -> Sizes:
    """Return what a run's file says of its sizes.

    Raises:
        ConfigError: that is not estimated of the method's models.
    """
    method, length = memory.method_and_length(config)
    tensor = tensor_of(config)
    found = memory.estimate(config, 1, length, method, tensor)
    described = memory.trained_model(config, method, tensor)
    model, talk = described.model, described.talk
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if config.fsdp.mixed_precision == "bf16":
        model.to(torch.bfloat16)
    used, blocks = _bytes(model), [_bytes(block) for block in blocks_of(base_model(model), Sharding())]
    row, again = memory.saved_bytes(model, method.sequences, length), 0
    told = 0.0 if talk is None else talk.forward + talk.backward
    if argument_values(config.training)["activation_checkpointing"]:
        told += 0 if talk is None else talk.again(len(blocks))
        kept = memory.saved_bytes(model.eval(), method.sequences, length)  # nothing is computed again in evaluation
        again = (kept - row) // max(len(blocks), 1)
    return Sizes(
        weights=found.weights - found.average, trained=found.gradients, moments=found.optimizer + found.average,
        used=used, reduced=trained * next(model.parameters()).element_size(), ends=used - sum(blocks),
        block=max(blocks, default=used), row=row, again=max(again, 0), logits=found.logits,
        micro_batches=config.training.gradient_accumulation_steps, tensor=tensor,
        talk=round(told),
    )  # fmt: skip


def tensor_of(config: TrainingConfig) -> int:
    """Return over how many processes a file divides layers."""
    return (config.fsdp.tensor or 1) if config.fsdp.enable_fsdp else 1


def check_model(config: TrainingConfig) -> None:
    """See whether the layers of a file's model can get adapters and be divided as it asks; of models that are not
    described without their weights, nothing.

    Raises:
        ConfigError: they cannot.
    """
    tensor = tensor_of(config)
    if tensor == 1 and not config.training.use_peft:
        return
    try:
        method, _ = memory.method_and_length(config)
    except ConfigError:
        return
    memory.trained_model(config, method, tensor)


def by_tensor(config: TrainingConfig, processes: int, per_machine: int) -> Iterator[Sizes]:
    """Yield the sizes of a run whose layers are divided over as many processes of a machine as they can be: over as
    many as its file says, or 1, 2, 4 and so on.

    Raises:
        ConfigError: the file says a number that does not divide those of the processes.
    """
    given = tensor_of(config)
    if processes % given or per_machine % given:
        raise ConfigError(
            f"fsdp.tensor is {given}, which does not divide {processes} processes and {per_machine} of a machine. "
            "Set it to a number that divides both."
        )
    yield sizes_of(config)
    most = 1 if given > 1 else min(per_machine, processes)
    for tensor in (2**power for power in range(1, most.bit_length())):
        if processes % tensor == per_machine % tensor == 0:
            with suppress(ConfigError):  # it cannot be divided so
                yield sizes_of(_divided(config, tensor))


def _divided(config: TrainingConfig, processes: int) -> TrainingConfig:
    """Return a run with its layers divided over some processes.

    Raises:
        ConfigError: another setting does not allow it.
    """
    changed = copy.deepcopy(config)
    changed.fsdp.enable_fsdp, changed.fsdp.tensor = True, processes
    with redirect_stderr(io.StringIO()):  # warnings of this process alone
        check(changed)
    return changed


def _bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
