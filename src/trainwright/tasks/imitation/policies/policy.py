"""Policies: what all have in common, and the simplest, a network of dense layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from trainwright.tasks.imitation.policies.normalize import ACTION, Normalizer, key

Observation = Mapping[str, torch.Tensor]
Generators = Sequence[torch.Generator] | None


class PolicyConfig(PreTrainedConfig):
    """What a policy sees and does.

    Attributes:
        numbers: size of every observation of numbers, by name.
        images: (height, width, channels) of every image, by name.
        action_size: of an action; for discrete ones their number.
        discrete: actions are one of `action_size`; the dense policy says them as classes.
        history, chunk: moments seen, actions said at once.
        execute: actions of a chunk that are done before it is asked again.
        ensemble: weight of temporal ensembling, 0 for none (Zhao et al. 2023, section IV-A); asks at every moment.
        trainwright_version: with which the policy was made; None of those made before it was kept.
    """

    numbers: dict[str, int] | None = None
    images: dict[str, list[int]] | None = None
    action_size: int = 1
    discrete: bool = False
    history: int = 1
    chunk: int = 1
    execute: int | None = None
    ensemble: float = 0.0
    trainwright_version: str | None = None


class Policy(PreTrainedModel):
    """A policy: `forward` gives the losses of a batch, `predict` the actions of some moments, `act` the next one."""

    config_class = PolicyConfig
    main_input_name = "observation"
    actor: Any = None

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.normalizer = Normalizer({**(config.numbers or {}), ACTION: config.action_size})

    def _init_weights(self, module: nn.Module) -> None:
        """Leave every part as torch draws it."""

    def forward(self, observation: Observation, action: torch.Tensor, action_is_pad: torch.Tensor) -> dict[str, Any]:
        """Return the losses of a batch, `loss` among them: a mean over the actions that are targets.

        Args:
            observation: by name, (rows, history, ...).
            action: (rows, chunk, size), as recorded.
            action_is_pad: (rows, chunk), True for what is no target.
        """
        raise NotImplementedError

    def predict(self, observation: Observation, generators: Generators = None) -> torch.Tensor:
        """Return the actions of some moments, (rows, chunk, size), as the environment takes them.

        Args:
            observation: by name, (rows, history, ...).
            generators: of policies that draw their actions, one for each row; None draws from torch's own.
        """
        raise NotImplementedError

    @property
    def sees(self) -> dict[str, tuple[int, ...]]:
        """The shape of every observation of a moment, by name."""
        numbers = {name: (size,) for name, size in (self.config.numbers or {}).items()}
        return numbers | {name: tuple(shape) for name, shape in (self.config.images or {}).items()}

    def act(self, observation: Any) -> Any:
        """Return the next action for one environment's observation: an array, or a dict of arrays by name.

        `reset()` begins an episode.
        """
        from trainwright.tasks.imitation.actor import Actor
        from trainwright.tasks.imitation.observations import named

        if self.actor is None:
            self.actor = Actor(self.eval(), [0])
        batch = {name: value[None] for name, value in named(observation).items()}
        return self.actor.act(batch)[0]

    def reset(self) -> None:
        """Forget the episode before."""
        self.actor = None


class Features(nn.Module):
    """Observations as one vector per moment: normalised numbers, and images through a small network of convolutions."""

    def __init__(self, config: PolicyConfig, normalizer: Normalizer) -> None:
        super().__init__()
        self.names = list(config.numbers or {})
        self.normalizer = [normalizer]  # not a part of this module, which would save it twice
        self.images = {name: shape[2] for name, shape in (config.images or {}).items()}
        self.backbone = nn.ModuleDict({key(name): _convolutions(channels) for name, channels in self.images.items()})
        self.size = sum((config.numbers or {}).values()) + 64 * len(self.backbone)

    def forward(self, observation: Observation) -> torch.Tensor:
        """Return (rows, history, size)."""
        parts = [self.normalizer[0](name, observation[name].float()) for name in self.names]
        for name in self.images:
            seen, network = observation[name], self.backbone[key(name)]
            images = (seen.float() if seen.is_floating_point() else seen.float().div(255)).movedim(-1, -3)
            parts.append(network(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
        return torch.cat(parts, dim=-1)


def _convolutions(channels: int) -> nn.Sequential:
    widths = (channels, 16, 32, 64)
    layers = [
        part
        for one, other in zip(widths, widths[1:], strict=False)
        for part in (nn.Conv2d(one, other, 3, stride=2, padding=1), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def masked_mean(losses: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
    """Return the mean of losses (rows, chunk) over what is a target."""
    wanted = ~is_pad
    return (losses * wanted).sum() / wanted.sum().clamp(min=1)


class MlpConfig(PolicyConfig):
    """A network of dense layers.

    Attributes:
        bins: 0 says numbers (L1 loss); otherwise every dimension of an action is one of so many equal steps between
            the least and the greatest demonstrated, and said as a class, so that where a demonstrator jumps from one
            action to another the policy does too and does not say their mean.
    """

    model_type = "trainwright_mlp_policy"
    width: int = 128
    depth: int = 2
    dropout: float = 0.0
    bins: int = 0


class MlpPolicy(Policy):
    """Behaviour cloning with chunks of actions."""

    config_class = MlpConfig

    def __init__(self, config: MlpConfig) -> None:
        super().__init__(config)
        self.features = Features(config, self.normalizer)
        sizes = [self.features.size * config.history, *([config.width] * config.depth)]
        layers = [
            part
            for one, other in zip(sizes, sizes[1:], strict=False)
            for part in (nn.Linear(one, other), nn.GELU(), nn.Dropout(config.dropout))
        ]
        each = config.action_size * max(config.bins, 1)
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], config.chunk * each))
        self.post_init()

    def said(self, observation: Observation) -> torch.Tensor:
        """Return what the network says: (rows, chunk, size), with a last dimension of bins where there are some."""
        out = self.network(self.features(observation).flatten(1))
        parts: torch.Tensor = out.unflatten(1, (self.config.chunk, self.config.action_size, -1))
        return parts

    def forward(self, observation: Observation, action: torch.Tensor, action_is_pad: torch.Tensor) -> dict[str, Any]:
        """Return `loss`: L1 of normalised actions, or cross-entropy of bins or of discrete actions."""
        out, config = self.said(observation), self.config
        if config.discrete:
            losses = functional.cross_entropy(
                out.squeeze(-1).flatten(0, 1), action.argmax(-1).flatten(), reduction="none"
            )
            return {"loss": masked_mean(losses.view(action_is_pad.shape), action_is_pad)}
        wanted = self.normalizer(ACTION, action)
        if config.bins:
            low, width = self._range()
            part = ((wanted - low) / torch.where(width > 0, width, 1.0)).clamp(0, 1)
            place = (part * (config.bins - 1)).round().long()
            losses = functional.cross_entropy(out.flatten(0, 2), place.flatten(), reduction="none")
            return {"loss": masked_mean(losses.view(place.shape).mean(-1), action_is_pad)}
        return {"loss": masked_mean((out.squeeze(-1) - wanted).abs().mean(-1), action_is_pad)}

    @torch.no_grad()
    def predict(self, observation: Observation, generators: Generators = None) -> torch.Tensor:
        """Return the actions of some moments, (rows, chunk, size)."""
        out = self.said(observation)
        if self.config.discrete:
            return out.squeeze(-1)
        if self.config.bins:
            low, width = self._range()
            return self.normalizer.inverse(ACTION, low + out.argmax(-1) / (self.config.bins - 1) * width)
        return self.normalizer.inverse(ACTION, out.squeeze(-1))

    def _range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the least demonstrated action, normalised, and how far it is to the greatest; (size,) each."""
        return self.normalizer.action_low, self.normalizer.action_high - self.normalizer.action_low
