"""AdamW on weights of bfloat16 that have no copy in float32: what is lost to rounding comes back on average."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trainwright.parallel.layouts.boxes import box_of, local

_BLOCK = 1 << 24  # elements whose random bits are drawn at once: each block costs a generator's seed


class AdamWBF16(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) computed in float32; weights and moments of bfloat16 are rounded at random.

    A number between two of bfloat16 becomes either, the nearer one more often, so that its mean is itself (stochastic
    rounding, arXiv:2010.06192): updates that are smaller than half a step of the format are not lost. The random bits
    follow from the number of the step and the place of the number alone, so ranks round as one process does, whether
    each holds the whole model or a part of it, and a resumed run does as it would have done. Weights of other formats
    are updated as torch's AdamW does.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: of the means of gradient and squared gradient.
        eps: added to the denominator.
        weight_decay: decoupled.
    """

    _step_supports_amp_scaling = True  # an update is left out on the device, where `found_inf` says so

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        usual = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": True, "calls": 0}
        super().__init__(params, usual)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters; those without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        left_out: torch.Tensor | None = getattr(self, "found_inf", None)
        for place, group in enumerate(self.param_groups):
            group["calls"] += 1
            generators: dict[torch.device, torch.Generator] = {}
            for number, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                device = parameter.device
                if device not in generators:
                    generators[device] = torch.Generator(device)
                self._update(parameter, group, (group["calls"], place, number), generators[device], left_out)
        return loss

    def _update(
        self,
        parameter: Any,
        group: dict[str, Any],
        key: tuple[int, ...],
        generator: torch.Generator,
        left_out: torch.Tensor | None,
    ) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        places = [local(one) for one in (state["exp_avg"], state["exp_avg_sq"], parameter)]
        step = state["step"] + 1
        gradient = local(parameter.grad).float()
        mean = places[0].float().lerp_(gradient, 1 - beta1)
        square = places[1].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        now = places[2].float() * (1 - group["lr"] * group["weight_decay"])
        now -= group["lr"] * (mean / (1 - beta1**step)) / size
        for which, (kept, value) in enumerate(zip(places, (mean, square, now), strict=True)):
            if kept.dtype == torch.bfloat16:
                new = rounded(value, random_bits(parameter, (*key, which), generator))
            else:
                new = value.to(kept.dtype)
            kept.copy_(new if left_out is None else torch.where(left_out.bool(), kept, new))
        state["step"] = step if left_out is None else torch.where(left_out.bool(), state["step"], step)


def random_bits(tensor: torch.Tensor, key: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return 16 random bits for every number of a tensor, int32, in the shape of what this process holds of it.
    They follow from the key and from where a number stands in the whole tensor.

    Args:
        tensor: which the bits are for.
        key: whole numbers, from 0 on.
        generator: of the tensor's device, whose state is lost.
    """
    box, row, total = box_of(tensor), math.prod(tensor.shape[1:]), tensor.numel()
    begin = box.offsets[0] * row if box.offsets else 0
    rows = (*box.shape[:1], *tensor.shape[1:])  # of which this process may hold some columns alone
    end, found = begin + math.prod(rows), []
    for block in range(begin // _BLOCK, -(-end // _BLOCK)):
        first = block * _BLOCK
        generator.manual_seed(int(np.random.SeedSequence([*key, block]).generate_state(1)[0]))
        drawn = torch.randint(
            1 << 16, (min(_BLOCK, total - first),), dtype=torch.int32, device=generator.device, generator=generator
        )
        found.append(drawn[max(begin - first, 0) : end - first])
    bits = found[0] if len(found) == 1 else torch.cat(found or [torch.zeros(0, dtype=torch.int32)])
    return bits.to(generator.device).view(rows)[(slice(None), *box.slices[1:])[: len(rows)]]


def rounded(values: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Return float32 values as bfloat16, each one of the two that it lies between; the mean of many is the value.

    bfloat16 is the upper half of a float32's bits: random bits are added to the lower half, which is cut off.

    Args:
        values: to be rounded.
        random: 16 random bits for each, int32; overwritten.
    """
    bits = random.add_(values.view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()
