"""Muon for the matrices of hidden layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz  # of Muon.step, which knows no parts of matrices

from trainwright.parallel.layouts.boxes import box_of, from_local, is_spread, local


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW, each on its groups.

    Muon's updates have the size of AdamW's (arXiv:2502.16982), so one learning rate and weight decay serve both.

    Args:
        params: groups; those with `muon: True` hold matrices.
        lr: learning rate of both.
        betas: of AdamW.
        eps: of AdamW.
        momentum: of Muon.
        ns_steps: Newton-Schulz steps of Muon.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
        ns_steps: int = 5,
    ) -> None:
        groups = [{"muon": False, **group} for group in params if group["params"]]
        matrices, others = ([group for group in groups if group["muon"] is kind] for kind in (True, False))
        settings = {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        self._parts: dict[bool, torch.optim.Optimizer] = {}
        if matrices:
            self._parts[True] = torch.optim.Muon(matrices, lr=lr, **settings)  # type: ignore[arg-type]  # by name
        if others:
            self._parts[False] = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps)
        made = [group for part in self._parts.values() for group in part.param_groups]
        super().__init__(made, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for is_muon, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["muon"] is is_muon]
            part.state = self.state  # which a checkpoint may have replaced
            if is_muon and any(is_spread(p) for group in part.param_groups for p in group["params"]):
                for group in part.param_groups:
                    step_of_parts(group, self.state)
            else:
                part.step()
        return loss


def step_of_parts(group: dict[str, Any], states: dict[torch.Tensor, Any]) -> None:
    """Update matrices of which every process holds some rows, as `torch.optim.Muon.step` does whole ones: the direction
    is gathered, one matrix at a time, and each process computes all of it, as it would under DDP."""
    for p in (p for p in group["params"] if p.grad is not None):
        state = states[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        own, gradient, momentum = local(p), local(p.grad), local(state["momentum_buffer"])
        momentum.lerp_(gradient, 1 - group["momentum"])
        whole: torch.Tensor = from_local(gradient.lerp(momentum, group["momentum"]), p).full_tensor()  # type: ignore[attr-defined]  # a DTensor
        turned = _zeropower_via_newtonschulz(whole, group["ns_coefficients"], group["ns_steps"], group["eps"])
        own.mul_(1 - group["lr"] * group["weight_decay"])
        own.add_(turned[box_of(p).slices], alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], p.shape))


def split_groups(model: nn.Module, groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups of which those with `muon: True` hold the matrices of hidden layers: neither embeddings nor the
    output layer, whose rows are no directions but words."""
    words = {part.weight for part in model.modules() if isinstance(part, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    words |= {head.weight} if isinstance(head, nn.Linear) else set()
    found = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim == 2 and p not in words]
        chosen = set(matrices)
        rest = [p for p in group["params"] if p not in chosen]
        found += [{**group, "params": matrices, "muon": True}, {**group, "params": rest, "muon": False}]
    return [group for group in found if group["params"]]
