"""Diffusion policy: a chunk of actions drawn by taking noise away step by step (Chi et al. 2023, arXiv:2303.04137)."""

from __future__ import annotations

import math
from itertools import repeat
from typing import Any

import torch
from torch import nn

from trainwright.tasks.imitation.policies.normalize import ACTION
from trainwright.tasks.imitation.policies.policy import (
    Features,
    Generators,
    Observation,
    Policy,
    PolicyConfig,
    masked_mean,
)


class DiffusionConfig(PolicyConfig):
    """Sizes of a diffusion policy.

    Attributes:
        noise_steps: of the noise in training.
        sample_steps: taken when actions are drawn (DDIM: Song et al. 2021, equation 12, without noise of its own).
    """

    model_type = "trainwright_diffusion_policy"
    width: int = 256
    depth: int = 3
    noise_steps: int = 100
    sample_steps: int = 10


class Block(nn.Module):
    """A dense layer that is told the noise step and what was seen, and adds to its input."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(told, 2 * width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Return x (rows, width) after the layer."""
        scale, shift = self.told(told).chunk(2, dim=-1)
        inner = self.norm(x) * (1 + scale) + shift
        added: torch.Tensor = self.down(nn.functional.gelu(self.up(inner)))
        return x + added


class DiffusionPolicy(Policy):
    """Learns the noise in noisy actions; draws actions from noise."""

    config_class = DiffusionConfig

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        width = config.width
        self.features = Features(config, self.normalizer)
        self.seen = nn.Sequential(nn.Linear(self.features.size * config.history, width), nn.GELU())
        self.step = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width))
        self.given = nn.Linear(config.chunk * config.action_size, width)
        self.blocks = nn.ModuleList(Block(width, width) for _ in range(config.depth))
        self.noise = nn.Linear(width, config.chunk * config.action_size)
        self.register_buffer("kept", cosine_schedule(config.noise_steps))
        self.post_init()

    def guess(self, noisy: torch.Tensor, step: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the noise in noisy actions (rows, chunk, size) of some steps (rows,)."""
        told = seen + self.step(waves(step, 64))
        x = self.given(noisy.flatten(1))
        for block in self.blocks:
            x = block(x, told)
        noise: torch.Tensor = self.noise(x)
        return noise.view_as(noisy)

    def forward(self, observation: Observation, action: torch.Tensor, action_is_pad: torch.Tensor) -> dict[str, Any]:
        """Return `loss`: the squared error of the noise, over the actions that are targets (equation 5)."""
        wanted = self.normalizer(ACTION, action)
        step = torch.randint(0, self.config.noise_steps, (len(wanted),), device=wanted.device)
        noise = torch.randn_like(wanted)
        kept = self.kept[step].view(-1, 1, 1)
        noisy = kept.sqrt() * wanted + (1 - kept).sqrt() * noise
        guess = self.guess(noisy, step, self.seen(self.features(observation).flatten(1)))
        return {"loss": masked_mean(((guess - noise) ** 2).mean(-1), action_is_pad)}

    @torch.no_grad()
    def predict(self, observation: Observation, generators: Generators = None) -> torch.Tensor:
        """Return actions drawn from noise, (rows, chunk, size); each row's from its own generator."""
        config, norm = self.config, self.normalizer
        seen = self.seen(self.features(observation).flatten(1))
        shape = (config.chunk, config.action_size)
        drawn = [torch.randn(shape, generator=one) for one in generators or repeat(None, len(seen))]
        x = torch.stack(drawn).to(seen.device)
        middle, reach = (norm.action_high + norm.action_low) / 2, (norm.action_high - norm.action_low) * 0.75
        steps = torch.linspace(config.noise_steps - 1, 0, config.sample_steps).round().long().tolist()
        for number, step in enumerate(steps):
            kept = self.kept[step]
            noise = self.guess(x, torch.full((len(x),), step, device=x.device), seen)
            clean = (x - (1 - kept).sqrt() * noise) / kept.sqrt()
            clean = clean.clamp(middle - reach, middle + reach)  # half as far again as demonstrated
            if number + 1 == len(steps):
                return norm.inverse(ACTION, clean)
            after = self.kept[steps[number + 1]]
            noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
            x = after.sqrt() * clean + (1 - after).sqrt() * noise
        raise AssertionError("there is at least one step")


def cosine_schedule(steps: int) -> torch.Tensor:
    """Return the share of the signal that is left after every step (Nichol and Dhariwal 2021, equation 17)."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    left = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (left / left[0])[1:].clamp(min=1e-4).float()


def waves(step: torch.Tensor, width: int) -> torch.Tensor:
    """Return steps (rows,) as sines and cosines, (rows, width)."""
    rates = torch.exp(torch.arange(width // 2, device=step.device) * (-math.log(10_000.0) / (width // 2)))
    at = step[:, None] * rates
    return torch.cat([at.sin(), at.cos()], dim=-1)
