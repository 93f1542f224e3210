"""How the processes of a run are laid out: copies of the model, shards of it, and parts of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainwright.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

REPLICATE, SHARD, TENSOR = "replicate", "shard", "tensor"
"""The names of the mesh's dimensions."""


@dataclass(frozen=True)
class Layout:
    """In how many ways the processes divide their work; their number is the product.

    Ranks are numbered with `tensor` fastest and `replicate` slowest, so that those that talk most are neighbours.

    Attributes:
        replicate: copies of the model, each on its own rows.
        shard: processes that share one copy's parameters, gradients and moments, each on its own rows (FSDP).
        tensor: processes that compute one layer together, on the same rows.
    """

    replicate: int = 1
    shard: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.replicate * self.shard * self.tensor

    @property
    def data_ranks(self) -> int:
        """In how many parts the rows of a step are divided."""
        return self.replicate * self.shard

    def data_index(self, rank: int) -> int:
        """Return which part of the rows a process reads."""
        return rank // self.tensor

    def check(self, world_size: int) -> None:
        """Compare the layout with the processes that there are.

        Raises:
            ConfigError: their numbers differ.
        """
        if min(self.replicate, self.shard, self.tensor) < 1 or self.size != world_size:
            raise ConfigError(
                f"The layout is {self.replicate} × {self.shard} × {self.tensor} (replicate × shard × tensor) = "
                f"{self.size} processes, and {world_size} run. Start as many as the layout has, or change it."
            )

    def describe(self) -> str:
        """Return the layout in words, such as "2 copies, each sharded over 4 processes"."""
        if self.tensor > 1 and self.shard == 1:
            copies = f"{self.replicate} copies, " if self.replicate > 1 else ""
            return f"{copies}layers divided over {self.tensor} processes"
        copies = f"{self.replicate} copies, each" if self.replicate > 1 else "parameters"
        parts = f", layers divided over {self.tensor}" if self.tensor > 1 else ""
        return f"{copies} sharded over {self.shard} processes{parts}"

    def mesh(self, device_type: str) -> DeviceMesh:
        """Return the mesh of the processes; `shard` is always among its dimensions, others where they are above 1."""
        from torch.distributed.device_mesh import init_device_mesh

        sizes = {REPLICATE: self.replicate, SHARD: self.shard, TENSOR: self.tensor}
        kept = {name: size for name, size in sizes.items() if size > 1 or name == SHARD}
        return init_device_mesh(device_type, tuple(kept.values()), mesh_dim_names=tuple(kept))
