"""The moving average of the weights: what is evaluated, saved and left in the model when training ends (`ema_decay`).

A checkpoint's weights are the average, so that whoever loads them has what was evaluated. The last step's, with which
training goes on, are in `ema.pt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainwright.parallel.strategy import Strategy


class Ema:
    """The exponential moving average of a model's trainable weights.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten (TensorFlow's
    ExponentialMovingAverage). It is kept in float32 at least, for what a step adds is lost in 16 bits, and given to the
    model in the model's own format. A parameter that is not finite from the start, such as a mask of -inf, has no
    average: its last values stay.

    Attributes:
        updates: how many steps are in it; a tensor where a device alone knows which were left out.
        weights: the averages by name, float32 or wider.
        last: the model's own weights, while it has the average.
    """

    def __init__(self, model: nn.Module, decay: float, strategy: Strategy) -> None:
        self.decay, self.strategy = decay, strategy
        self.updates: int | torch.Tensor = 0
        self.last: dict[str, torch.Tensor] | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self._seen: set[str] = set()
        self.follow({name: p for name, p in model.named_parameters() if p.requires_grad})

    def follow(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Take in what is trained from now on; its average begins with its value of now."""
        new = {name: p for name, p in trained.items() if name not in self._seen}
        self._seen |= new.keys()
        flags = self.strategy.finite(list(new.values())).tolist()
        kept = [(name, p.detach()) for (name, p), fine in zip(new.items(), flags, strict=True) if fine]
        self.weights |= {name: p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for name, p in kept}

    @torch.no_grad()
    def update(self, model: nn.Module, bad: torch.Tensor | bool = False) -> None:
        """Take a step's weights in, unless the step was bad, which a device need not tell the host."""
        if bad is True or not self.weights:
            return
        now = dict(model.named_parameters())
        averages = list(self.weights.values())
        last = [now[name].to(average.dtype) for name, average in self.weights.items()]
        if isinstance(bad, torch.Tensor):
            self.updates = torch.as_tensor(self.updates, device=bad.device)
            weight = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
            moves = torch._foreach_sub(last, averages)
            torch._foreach_mul_(moves, torch.where(bad, 0.0, weight))
            torch._foreach_add_(averages, moves)
            self.updates = self.updates + ~bad
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            get_ema_multi_avg_fn(decay)(averages, last, 0)
            self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model have the average while the body runs, which may ask for it again."""
        if self.last is not None:
            yield
            return
        self.strategy.rest(model)
        now = dict(model.named_parameters())
        in_place = self.strategy.shards_state  # a sharded parameter is gathered from the memory that it began with
        self.last = last = {name: now[name].detach().clone() if in_place else now[name].data for name in self.weights}
        give(now, self.weights, in_place)
        try:
            yield
        finally:
            self.strategy.rest(model)
            give(now, last, in_place)
            self.last = None

    def leave(self, model: nn.Module) -> None:
        """Let the model have the average for good."""
        put(model, self.weights)

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        """Return what a checkpoint keeps: the average in its own format, and the model's weights of the last step."""
        now = dict(model.named_parameters())
        last = {name: now[name].detach() for name in self.weights} if self.last is None else self.last
        return {"updates": int(self.updates), "weights": self.weights, "last": last}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Go on with what a checkpoint kept, also of what is not trained now; what was not trained then begins with its
        value of now."""
        self.updates = state["updates"]
        self.follow({name: p for name, p in model.named_parameters() if name in state["weights"]})
        for name in self.weights.keys() & state["weights"].keys():
            self.weights[name].copy_(state["weights"][name])


@torch.no_grad()
def give(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, torch.Tensor], in_place: bool) -> None:
    """Give parameters other values, in their own formats: copied into their memory, or as their memory."""
    for name, tensor in weights.items():
        if in_place:
            parameters[name].copy_(tensor)
        else:
            parameters[name].data = tensor.to(parameters[name].dtype)


@torch.no_grad()
def put(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a model, by name, in the model's own formats."""
    now = dict(model.named_parameters())
    for name, tensor in weights.items():
        now[name].copy_(tensor)
