"""ACT: a transformer that says a chunk of actions from a style it infers (Zhao et al. 2023, arXiv:2304.13705)."""

from __future__ import annotations

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


class ActConfig(PolicyConfig):
    """Sizes of an ACT policy.

    Attributes:
        kl_weight: of the style's distance from a standard normal distribution, against the L1 loss of the actions.
    """

    model_type = "trainwright_act_policy"
    width: int = 128
    heads: int = 4
    ffn: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 2
    latent: int = 16
    dropout: float = 0.1
    kl_weight: float = 10.0


class ActPolicy(Policy):
    """A conditional variational autoencoder: in training the style is read from the actions, in use it is the mean."""

    config_class = ActConfig

    def __init__(self, config: ActConfig) -> None:
        super().__init__(config)
        width = config.width
        self.features = Features(config, self.normalizer)
        self.seen = nn.Linear(self.features.size, width)
        self.done = nn.Linear(config.action_size, width)
        self.style_token = nn.Parameter(torch.randn(width) * 0.02)
        self.style = nn.Linear(width, 2 * config.latent)
        self.from_style = nn.Linear(config.latent, width)
        self.moments = nn.Parameter(torch.randn(config.history + 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(config.chunk, width) * 0.02)
        self.reader = self._encoder(config)
        self.encoder = self._encoder(config)
        layer = nn.TransformerDecoderLayer(
            width, config.heads, config.ffn, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.decoder_layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, config.action_size)
        self.post_init()

    @staticmethod
    def _encoder(config: ActConfig) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.ffn, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(
            layer, config.encoder_layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )

    def read_style(
        self, seen: torch.Tensor, action: torch.Tensor, is_pad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-variance of the style, each (rows, latent), of normalised actions."""
        rows = len(action)
        token = self.style_token.expand(rows, 1, -1)
        known = torch.cat([token, seen[:, -1:], self.done(action) + self.places], dim=1)
        hidden = torch.cat([torch.zeros(rows, 2, dtype=torch.bool, device=is_pad.device), is_pad], dim=1)
        mean, log_variance = self.style(self.reader(known, src_key_padding_mask=hidden)[:, 0]).chunk(2, dim=-1)
        return mean, log_variance

    def write(self, seen: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Return normalised actions (rows, chunk, size) for what was seen (rows, history, width), in a style."""
        memory = self.encoder(torch.cat([self.from_style(style)[:, None], seen], dim=1) + self.moments)
        actions: torch.Tensor = self.head(self.decoder(self.places.expand(len(seen), -1, -1), memory))
        return actions

    def forward(self, observation: Observation, action: torch.Tensor, action_is_pad: torch.Tensor) -> dict[str, Any]:
        """Return `l1`, `kl` and `loss` = l1 + kl_weight · kl, each a mean over the actions that are targets."""
        seen, wanted = self.seen(self.features(observation)), self.normalizer(ACTION, action)
        if self.training:
            mean, log_variance = self.read_style(seen, wanted, action_is_pad)
            style = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            each = (-0.5 * (1 + log_variance - mean**2 - log_variance.exp())).sum(-1)
            kl = masked_mean(each[:, None].expand_as(action_is_pad), action_is_pad)
        else:  # as in use, so that the held-out loss is that of what is done
            style = seen.new_zeros(len(wanted), self.config.latent)
            kl = seen.new_zeros(())
        l1 = masked_mean((self.write(seen, style) - wanted).abs().mean(-1), action_is_pad)
        return {"loss": l1 + self.config.kl_weight * kl, "l1": l1, "kl": kl}

    @torch.no_grad()
    def predict(self, observation: Observation, generators: Generators = None) -> torch.Tensor:
        """Return the actions of some moments, (rows, chunk, size), in the mean style."""
        seen = self.seen(self.features(observation))
        style = seen.new_zeros(len(seen), self.config.latent)
        return self.normalizer.inverse(ACTION, self.write(seen, style))
