"""What the arguments say of this process: its device, its rank, what it writes, and when it waits for others."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trainwright import processes
from trainwright.errors import ConfigError
from trainwright.world import choose_device, current_world

if TYPE_CHECKING:
    import torch


class OfProcess:
    """The properties and methods of TrainingArguments that are about one process of the run."""

    if TYPE_CHECKING:
        use_cpu: bool
        fp16: bool
        bf16: bool
        per_device_train_batch_size: int
        per_device_eval_batch_size: int
        log_on_each_node: bool
        save_on_each_node: bool
        ddp_timeout: int
        ddp_backend: str | None
        log_level: str
        log_level_replica: str

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return choose_device(current_world(), self.use_cpu)

    @property
    def n_gpu(self) -> int:
        """GPUs used by this process: 1 or 0, never several."""
        return int(self.device.type != "cpu")

    _n_gpu = n_gpu

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return current_world().size

    @property
    def process_index(self) -> int:
        """Rank of this process."""
        return current_world().rank

    @property
    def local_process_index(self) -> int:
        """Rank of this process on its machine."""
        return current_world().local_rank

    @property
    def parallel_mode(self) -> Any:
        """How several devices are used, as transformers' `ParallelMode`: DISTRIBUTED or NOT_PARALLEL."""
        from transformers.training_args import ParallelMode

        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def distributed_state(self) -> Any:
        """The processes of the run as accelerate's `PartialState`, which scripts ask who goes first or divides work."""
        if not current_world().is_alone:
            processes.start_processes(self.device, self.ddp_backend, self.ddp_timeout)
        try:
            from accelerate import PartialState
        except ImportError:
            raise ConfigError("args.distributed_state needs the package accelerate: pip install accelerate.") from None
        return PartialState(cpu=self.use_cpu)

    @property
    def mixed_precision(self) -> str:
        """The lower precision asked for: "fp16", "bf16" or "no"."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "no"

    deepspeed_plugin = fsdp_plugin_args = None

    @property
    def place_model_on_device(self) -> None:
        """Nothing of its own to say: the Trainer moves the model to the device."""
        return None

    @property
    def train_batch_size(self) -> int:
        """Rows of one training micro-batch of this process."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Rows of one evaluation batch of this process."""
        return self.per_device_eval_batch_size

    @property
    def should_log(self) -> bool:
        """Whether this process reports to trackers."""
        world = current_world()
        return world.is_local_main if self.log_on_each_node else world.is_main

    @property
    def should_save(self) -> bool:
        """Whether this process writes files."""
        world = current_world()
        return world.is_local_main if self.save_on_each_node else world.is_main

    @property
    def ddp_timeout_delta(self) -> timedelta:
        """`ddp_timeout` as a timedelta."""
        return timedelta(seconds=self.ddp_timeout)

    def get_process_log_level(self) -> int:
        """Return the level, as a number of `logging`, of this process: `log_level`, or that of the replicas.

        "passive" is the level that is set already: of transformers where it is loaded, else of our logger.
        """
        name = self.log_level if self.should_log else self.log_level_replica
        if name != "passive":
            return logging.DEBUG if name == "detail" else getattr(logging, name.upper())
        owner = "transformers" if "transformers" in sys.modules else "trainwright"
        return logging.getLogger(owner).getEffectiveLevel()

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Let one process do something first, such as filling a cache, while the others wait.

        Args:
            local: the first process of every machine, for folders that are not shared; else the first of all.
            desc: what is done; it is not shown.
        """
        world = current_world()
        if world.is_alone:
            yield
            return
        hosts = processes.start_processes(self.device, self.ddp_backend, self.ddp_timeout)
        with processes.first_alone(world, hosts, local):
            yield
