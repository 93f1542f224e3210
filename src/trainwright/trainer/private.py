"""What overrides copied from transformers' Trainer call on themselves, by its private names."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from trainwright.checkpoint.model import weights
from trainwright.data.loaders.loader import InOrder
from trainwright.data.loaders.rows import Collate
from trainwright.data.sampling.plan import Order
from trainwright.inputs import dataloaders
from trainwright.saving import model_files


class PrivateNames:
    """Methods of the Trainer's that this engine has no use for, and code written for transformers has."""

    is_fsdp_xla_v1_enabled = is_fsdp_xla_v2_enabled = False

    @property
    def is_distributed_loading_by_transformers(self: Any) -> bool:
        """Whether transformers divided the model among devices when it loaded it."""
        return getattr(self.model, "is_distributed_loading_by_transformers", False)

    @cached_property
    def _memory_tracker(self: Any) -> Any:
        from transformers.trainer_utils import TrainerMemoryTracker

        return TrainerMemoryTracker(self.args.skip_memory_metrics)

    @property
    def _loss_shifts_labels(self: Any) -> bool:
        shifts: bool = self.objective.shifted
        return shifts

    def _get_train_sampler(self: Any, train_dataset: Any = None) -> Any:
        """Return the sampler of the training rows: the order that the arguments say; an override may return another."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        known = rows is not None and hasattr(rows, "__len__") and not isinstance(rows, IterableDataset)
        return InOrder(dataloaders.train_order(self._session, rows)) if known else None

    def _get_eval_sampler(self: Any, eval_dataset: Any) -> Any:
        """Return the sampler of an evaluation set: its own order; an override may return another."""
        return InOrder(Order(len(eval_dataset), "sequential")) if hasattr(eval_dataset, "__len__") else None

    def _get_dataloader(
        self: Any,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Any = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader[Any]:
        return dataloaders.dataloader(
            self._session, dataset, description, batch_size, sampler_of=sampler_fn, training=is_training
        )

    def _remove_unused_columns(self: Any, dataset: Any, description: str | None = None) -> Any:
        wanted = dataloaders.wanted_columns(self._session, dataset, description or "data")
        names = getattr(dataset, "column_names", None)
        if wanted is None or names is None:
            return dataset
        return dataset.remove_columns([name for name in names if name not in wanted])

    def _get_collator_with_removed_columns(self: Any, data_collator: Any, description: str | None = None) -> Any:
        columns = dataloaders.wanted_columns(self._session, None, description or "data")
        return data_collator if columns is None else Collate(data_collator, columns, description or "data")

    def _get_learning_rate(self: Any) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def _get_output_dir(self: Any, trial: Any = None) -> str:
        return str(self.run_folder)

    def _prepare_context_parallel_inputs(self: Any, model: nn.Module, inputs: Any) -> tuple[Any, Any]:
        """Return the context in which a step's rows are divided among devices, which is none, and the inputs."""
        return nullcontext, inputs

    def _save(self: Any, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        model_files.save_model(self._session, output_dir, state_dict)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        weights.load_model(self.model if model is None else model, Path(resume_from_checkpoint))

    def _move_model_to_device(self: Any, model: nn.Module, device: torch.device) -> None:
        model.to(device)

    def _wrap_model(self: Any, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        return model

    def get_tp_size(self: Any) -> int:
        """Return the processes that a layer is divided among: 1."""
        return 1

    get_cp_size = get_sp_size = get_tp_size
