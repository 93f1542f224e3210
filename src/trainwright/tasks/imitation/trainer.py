"""A Trainer of policies: rollouts belong to its evaluation, the backbone may have a learning rate of its own."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import torch
from torch import nn

from trainwright.losses.eval_context import evaluating, together
from trainwright.objectives.model_loss import ModelLoss, loss_of
from trainwright.session.meters import Records
from trainwright.tasks.imitation.rollout import Rollouts, summary
from trainwright.trainer.face import session_of
from trainwright.trainer.trainer import Trainer

_BACKBONE = "backbone"


class ActionLoss(ModelLoss):
    """The loss of a policy, whose items are the actions that are targets."""

    def count(self, batch: Any) -> int:
        """Return the number of actions of a batch that are no padding."""
        return int(_targets(batch))


def _targets(batch: Any) -> torch.Tensor:
    is_pad: torch.Tensor = batch["action_is_pad"]
    return (~is_pad).sum()


class PolicyTrainer(Trainer):
    """Trains a policy whose forward returns a dictionary of losses.

    Attributes:
        rollouts: episodes that every evaluation runs; their metrics are its metrics, so the best checkpoint and early
            stopping may go by them.
        backbone_learning_rate: of the parameters whose name says backbone.
    """

    def __init__(
        self, *args: Any, rollouts: Rollouts | None = None, backbone_learning_rate: float | None = None, **named: Any
    ) -> None:
        super().__init__(*args, **{"objective": ActionLoss(), **named})
        self.rollouts = rollouts
        self.backbone_learning_rate = backbone_learning_rate
        self._last_rollout: tuple[int, dict[str, float]] | None = None

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the policy's losses, every one of which is logged; with `num_items_in_batch`, `loss` as a share."""
        outputs = model(**inputs)
        losses = outputs
        if num_items_in_batch is not None:
            losses = {**outputs, "loss": loss_of(outputs, inputs) * (_targets(inputs) / num_items_in_batch)}
        return (losses, outputs) if return_outputs else losses

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer, the backbone in groups of its own where it has a learning rate."""
        optimizer = super().create_optimizer(model)
        if self.backbone_learning_rate is None:
            return optimizer
        names = {id(p) for name, p in self.model.named_parameters() if _BACKBONE in name}
        for group in list(optimizer.param_groups):
            apart = [p for p in group["params"] if id(p) in names]
            group["params"] = [p for p in group["params"] if id(p) not in names]
            if apart:
                settings = {name: value for name, value in group.items() if name != "params"}
                optimizer.add_param_group({**settings, "params": apart, "lr": self.backbone_learning_rate})
        return optimizer

    def evaluation_metrics(self, prefix: str) -> dict[str, float]:
        """Return success rate, return and length of the rollouts, where they are due."""
        rollouts, step = self.rollouts, self.state.global_step
        if rollouts is None or (rollouts.rollout_steps and self.is_in_train and step % rollouts.rollout_steps):
            return {}
        if self._last_rollout is None or self._last_rollout[0] != step or not self.is_in_train:
            self._last_rollout = step, self._roll(step)
        return {f"{prefix}_{name}": value for name, value in self._last_rollout[1].items()}

    def _roll(self, step: int) -> dict[str, float]:
        """Run the episodes, every rank its share, write them down, and return their metrics without a prefix, the same
        on all ranks."""
        rollouts, shard = self.rollouts, self.strategy.data_shard
        assert rollouts is not None
        folder = self.run_folder / "rollouts"
        with evaluating(session_of(self), Records()) as policy, together(session_of(self)):
            mine = rollouts.run(policy, shard)  # type: ignore[arg-type]  # a policy
            if rollouts.film and self.strategy.is_main:
                rollouts.record_film(policy, folder / f"step_{step}.gif")  # type: ignore[arg-type]  # a policy
        results = sorted(chain.from_iterable(self.strategy.gather_shards(mine)), key=lambda one: one.seed)
        if self.strategy.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            text = ",\n".join(json.dumps(vars(one)) for one in results)
            (folder / f"step_{step}.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
        return {name.removeprefix("_"): value for name, value in summary(results, "").items()}
