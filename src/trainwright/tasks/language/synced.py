"""A reference that follows the model: after every some steps it becomes a mean of itself and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.callbacks.base import TrainerCallback
from trainwright.session.session import Session


def keep_synced(session: Session, options: Any) -> None:
    """Let a run's reference follow its model, and its checkpoints keep it.

    Args:
        session: whose objective has a reference.
        options: with `ref_model_mixup_alpha` and `ref_model_sync_steps`.
    """
    reference = session.objective.reference
    assert reference is not None
    session.synced_reference = reference
    synced = SyncedReference(session, reference, options.ref_model_mixup_alpha)
    session.callback_handler.add_callback(Syncing(synced, options.ref_model_sync_steps))


@dataclass
class SyncedReference:
    """A reference whose weights follow those of the model (TR-DPO, arXiv:2404.09656, equation 2).

    Attributes:
        session: of the run.
        model: the reference.
        alpha: the model's part in the mean.
    """

    session: Session
    model: nn.Module
    alpha: float

    @torch.no_grad()
    def sync(self) -> None:
        """Let every parameter q be alpha · p + (1 - alpha) · q, p the model's; of shards, each process its own."""
        self.session.strategy.rest(self.model)
        for own, other in zip(self.model.parameters(), self.session.model.parameters(), strict=True):
            own.mul_(1.0 - self.alpha).add_(other, alpha=self.alpha)


class Syncing(TrainerCallback):
    """Syncs a reference after every `steps` steps."""

    def __init__(self, synced: SyncedReference, steps: int) -> None:
        self.synced = synced
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sync, where it is due."""
        if state.global_step % self.steps == 0:
            self.synced.sync()
