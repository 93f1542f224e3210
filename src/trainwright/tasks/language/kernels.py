"""Which kernels a file asks for."""

from __future__ import annotations

import logging

import torch

from trainwright.config.keys.uses import has_package
from trainwright.config.schema import TrainingConfig

logger = logging.getLogger("trainwright")


def liger(config: TrainingConfig) -> dict[str, bool]:
    """Return the argument that switches Liger's kernels on, where they are wanted, and can run."""
    if not config.model.enable_liger_kernel or not has_package("liger_kernel"):  # which `config/keys/uses.py` says
        return {}
    if config.training.use_cpu or not torch.cuda.is_available():
        logger.warning("model.enable_liger_kernel has no effect on a CPU: Liger's kernels run on GPUs alone.")
        return {}
    return {"use_liger_kernel": True}
