"""Reading torch's distributed checkpoints (DCP): of FSDP in accelerate, in transformers, or of a loop of one's own.

Such a folder has a pickle of what is where (`.metadata`) and the bytes. Here nothing but the classes that torch writes
there is unpickled, and of the state nothing but tensors and plain values.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from trainwright.errors import CheckpointError

METADATA = ".metadata"
_CLASSES_OF = ("torch.distributed.checkpoint.", "torch.distributed._shard.", "pathlib", "collections")
_OF_TORCH = ("torch.Size", "torch.serialization._get_layout")
Place = tuple[Any, ...]


class Distributed:
    """A distributed checkpoint, from which one tensor or value after another is read.

    Attributes:
        places: of every entry, by its name: the keys that lead to it in the state that was saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            with (folder / METADATA).open("rb") as file:
                found = _Unpickler(file).load()
        except (OSError, pickle.UnpicklingError, AttributeError, EOFError, ValueError) as error:
            raise CheckpointError(f"{folder} is no distributed checkpoint that can be read: {error}") from error
        self._entries: dict[str, Any] = found.state_dict_metadata
        planned = found.planner_data or {}
        self.places: dict[str, Place] = {name: tuple(planned.get(name, (name,))) for name in self._entries}

    def is_tensor(self, name: str) -> bool:
        """Whether an entry is a tensor."""
        return isinstance(self._entries[name], TensorStorageMetadata)

    def stand_in(self, name: str) -> torch.Tensor:
        """Return a tensor of the device `meta` with the shape and type of an entry."""
        entry = self._entries[name]
        return torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")

    def read(self, *names: str) -> dict[str, Any]:
        """Return entries, whole."""
        state = {name: torch.empty_like(self.stand_in(name), device="cpu") for name in names if self.is_tensor(name)}
        asked: dict[str, Any] = {name: state.get(name) for name in names}
        load(asked, checkpoint_id=self.folder, planner=_Planner(), no_dist=True)
        return asked


class _Planner(DefaultLoadPlanner):
    """Reads values as plain ones."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)


class _Unpickler(pickle.Unpickler):
    """Knows what torch writes into `.metadata`, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        found = None if "." in name else super().find_class(module, name)  # a dot leads to what a module has imported
        of_torch = isinstance(found, torch.dtype) or f"{module}.{name}" in _OF_TORCH
        if of_torch or (module.startswith(_CLASSES_OF) and isinstance(found, type)):
            return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no part of it")
