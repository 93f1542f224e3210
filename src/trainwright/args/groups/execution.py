"""Arguments of the machine: randomness, devices, data loading, several processes, debugging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainwright.args.groups.option import flag, option


@dataclass
class Reproducibility:
    """Randomness."""

    seed: int = option(42, "Seed of everything random.")
    data_seed: int | None = option(None, "Seed of the data order; `seed` when not given.")
    full_determinism: bool = option(False, "Use deterministic algorithms, which can be slower.")


@dataclass
class Hardware:
    """Devices and foreign launch configurations."""

    use_cpu: bool = option(False, "Use the CPU even where there is a GPU.")
    accelerator_config: dict[str, Any] | str | None = option(None, "Options of accelerate; see below the tables.")
    parallelism_config: Any = option(None, "Over how many processes a model is sharded and copied; see `scale.md`.")


@dataclass
class DataLoading:
    """How rows become batches."""

    dataloader_drop_last: bool = option(False, "Drop the last batch of an epoch when it is not full.")
    dataloader_num_workers: int = option(0, "Processes that fetch rows; 0 for the main process.")
    dataloader_pin_memory: bool = option(True, "Pin host memory, for faster copies to a GPU.")
    dataloader_persistent_workers: bool = option(False, "Keep the worker processes between epochs.")
    dataloader_prefetch_factor: int | None = option(None, "Batches fetched ahead by each worker.")
    dataloader_multiprocessing_context: str | None = option(None, "Start method of workers: fork, spawn.")
    dataloader_in_order: bool = option(True, "Take the workers' batches in their order.")
    remove_unused_columns: bool = option(True, "Leave out the columns that the model's forward does not take.")
    label_names: list[str] | None = option(None, "The inputs that are labels.")
    train_sampling_strategy: str = option("random", "Order of the rows: random, sequential, group_by_length.")
    length_column_name: str = option("length", "Column with the rows' lengths, for group_by_length.")


@dataclass
class Distribution:
    """Several processes under torchrun."""

    ddp_find_unused_parameters: bool | None = option(None, "Passed to DistributedDataParallel.")
    ddp_bucket_cap_mb: int | None = option(None, "Passed to DistributedDataParallel.")
    ddp_broadcast_buffers: bool | None = option(None, "Passed to DistributedDataParallel.")
    ddp_static_graph: bool | None = option(None, "Passed to DistributedDataParallel.")
    ddp_backend: str | None = option(None, "Backend of torch.distributed: nccl, gloo.")
    ddp_timeout: int = option(1800, "Seconds until a collective operation gives up.")
    fsdp: str | None = flag(None, "Shard the model over the processes (FSDP2); see `scale.md`.")
    fsdp_config: dict[str, Any] | str | None = option(None, "How it is sharded; see `scale.md`.")
    deepspeed: dict[str, Any] | str | None = option(None, "Not supported.")
    local_rank: int = option(-1, "Ignored: the environment of torchrun tells the rank.")


@dataclass
class Debugging:
    """Help in finding faults, and switches that only scripts read."""

    debug: str | list[str] = option("", "'underflow_overflow' watches the model's activations.")
    skip_memory_metrics: bool = option(True, "Always true.")
    do_train: bool = option(False, "For scripts: train.")
    do_eval: bool = option(False, "For scripts: evaluate.")
    do_predict: bool = option(False, "For scripts: predict.")
