"""AdamW on weights of bfloat16 that have no copy in float32: what is lost to rounding comes back on average."""

from __future__ import annotations

from typing import Any

import torch


class AdamWBF16(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) computed in float32; weights and moments of bfloat16 are rounded at random.

    A number between two of bfloat16 becomes either, the nearer one more often, so that its mean is itself (stochastic
    rounding, arXiv:2010.06192): updates that are smaller than half a step of the format are not lost. The random bits
    follow from the number of the step and the place of the parameter alone, so all ranks round alike, and a resumed run
    does as it would have done. Weights of other formats are updated as torch's AdamW does.

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
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                device = parameter.device
                if device not in generators:
                    generators[device] = torch.Generator(device).manual_seed((place << 40) + group["calls"])
                self._update(parameter, group, generators[device], left_out)
        return loss

    def _update(
        self, parameter: Any, group: dict[str, Any], generator: torch.Generator, left_out: torch.Tensor | None
    ) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        step = state["step"] + 1
        gradient = parameter.grad.float()
        mean = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        now = parameter.float() * (1 - group["lr"] * group["weight_decay"])
        now -= group["lr"] * (mean / (1 - beta1**step)) / size
        places = (state["exp_avg"], state["exp_avg_sq"], parameter)
        for kept, value in zip(places, (mean, square, now), strict=True):
            new = rounded(value, generator) if kept.dtype == torch.bfloat16 else value.to(kept.dtype)
            kept.copy_(new if left_out is None else torch.where(left_out.bool(), kept, new))
        state["step"] = step if left_out is None else torch.where(left_out.bool(), state["step"], step)


def rounded(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return float32 values as bfloat16, each one of the two that it lies between; the mean of many is the value.

    bfloat16 is the upper half of a float32's bits: random bits are added to the lower half, which is cut off.
    """
    noise = torch.randint(1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits = noise.add_(values.view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()
