"""A reference that follows the model: after every some steps it becomes a mean of itself and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.callbacks.base import TrainerCallback
from trainwright.errors import ConfigError
from trainwright.session.session import Session


def keep_synced(session: Session, options: Any) -> None:
    """Let a run's reference follow its model, and its checkpoints keep it as the part `reference`.

    Args:
        session: whose objective has a reference.
        options: with `ref_model_mixup_alpha` and `ref_model_sync_steps`.

    Raises:
        ConfigError: the processes share the model, so that none has the weights that are to be followed.
    """
    if session.strategy.shards_state:
        raise ConfigError(
            "training.trainer_kwargs.sync_ref_model needs the whole model in every process; leave it out, or train "
            "without fsdp."
        )
    reference = session.objective.reference
    assert reference is not None
    synced = SyncedReference(session, reference, options.ref_model_mixup_alpha)
    session.checkpoint_parts["reference"] = synced
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
        """Let every parameter q be alpha · p + (1 - alpha) · q, p the model's."""
        for own, other in zip(self.model.parameters(), self.session.model.parameters(), strict=True):
            own.mul_(1.0 - self.alpha).add_(other, alpha=self.alpha)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights; they are the same on all ranks, of which the first one keeps them."""
        if not self.session.strategy.is_main:
            return {}
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on with weights that `state_dict` returned, those of the first rank; all ranks come here."""
        kept = self.session.strategy.from_main(state)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(kept[name])


class Syncing(TrainerCallback):
    """Syncs a reference after every `steps` steps."""

    def __init__(self, synced: SyncedReference, steps: int) -> None:
        self.synced = synced
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sync, where it is due."""
        if state.global_step % self.steps == 0:
            self.synced.sync()
