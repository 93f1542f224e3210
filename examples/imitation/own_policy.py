"""A policy, a loader and a loss of your own, tried in an environment while they train: python own_policy.py"""

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from trainwright import BaseTrainer, EarlyStoppingCallback, TrainingArguments


def demonstrations(count):
    """Rows (observation, action) of a car that pushes where it goes anyway."""
    env, rows = gymnasium.make("MountainCarContinuous-v0"), []
    for seed in range(count):
        seen, over = env.reset(seed=seed)[0], False
        while not over:
            action = np.array([1.0 if seen[1] >= 0 else -1.0], dtype=np.float32)
            rows.append({"seen": torch.tensor(seen), "action": torch.tensor(action)})
            seen, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    return rows


class MyPolicy(nn.Module):
    """Position and speed to a push; knows the sizes of what it sees."""

    def __init__(self, rows):
        super().__init__()
        seen = torch.stack([row["seen"] for row in rows])
        self.register_buffer("mean", seen.mean(0))  # a buffer is saved with the weights
        self.register_buffer("std", seen.std(0))
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1), nn.Tanh())

    def forward(self, seen):
        return self.layers((seen - self.mean) / self.std)


class MyTrainer(BaseTrainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        said = model(inputs["seen"])
        losses = {"l1": (said - inputs["action"]).abs().mean(), "large": 0.01 * (said**2).mean()}
        return (losses, losses) if return_outputs else losses  # the sum is minimised, every term is logged

    def evaluation_metrics(self, prefix):
        """Drive from ten new places; the best checkpoint and early stopping go by what this returns."""
        env, totals = gymnasium.make("MountainCarContinuous-v0"), []
        self.model.eval()
        for seed in range(1000, 1010):
            seen, total, over = env.reset(seed=seed)[0], 0.0, False
            while not over:
                with torch.no_grad():
                    action = self.model(torch.tensor(seen)).numpy()
                seen, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
            totals.append(total)
        return {f"{prefix}_return": sum(totals) / len(totals)}


def main(steps=400):
    rows, held_out = demonstrations(20), demonstrations(22)[-200:]
    args = TrainingArguments(
        "runs/own-policy", max_steps=steps, learning_rate=3e-3, eval_strategy="steps", eval_steps=100, save_steps=100,
        load_best_model_at_end=True, metric_for_best_model="return", greater_is_better=True, use_cpu=True,
        remove_unused_columns=False, label_names=["action"], prediction_loss_only=True,
    )  # fmt: skip
    trainer = MyTrainer(
        MyPolicy(rows), args, train_loader=DataLoader(rows, batch_size=64, shuffle=True),
        eval_loader=DataLoader(held_out, batch_size=64), callbacks=[EarlyStoppingCallback(3)],
    )  # fmt: skip
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
