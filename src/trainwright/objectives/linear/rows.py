"""The cross-entropy of rows of logits with its gradient, and what else is noted of them: of all classes, or of those
that a process holds of a layer that several divide."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from trainwright.objectives.linear import card_products
from trainwright.parallel.layouts.boxes import RowSlice

TokenStatistics = dict[str, torch.Tensor]
"""What else is noted of every row, shape (rows,): `top1`, whether the target has the largest logit; `entropy` of the
prediction in nats; `mean_logit`; `log_sum_square`, the logarithm of the sum of squared probabilities."""


def new_watch(names: tuple[str, ...], like: torch.Tensor) -> TokenStatistics:
    """Return room for what is noted of every row of `like`."""
    return {name: torch.empty(len(like), device=like.device, dtype=torch.float32) for name in names}


def watch_part(watch: TokenStatistics | None, part: slice) -> TokenStatistics | None:
    """Return the rows of a chunk of what is noted; views."""
    return None if watch is None else {name: values[part] for name, values in watch.items()}


def row_losses(
    logits: torch.Tensor, targets: torch.Tensor, held: RowSlice | None = None, **how: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what `losses_of` does, compiled on a card that is proven to; of some of the classes, `losses_of_slice`."""
    if held is not None:
        return losses_of_slice(logits, targets, held, **how)
    is_compiled = logits.is_cuda and card_products.is_used(logits)
    function = card_products.compiled(losses_of) if is_compiled else losses_of
    found: tuple[torch.Tensor, torch.Tensor | None] = function(logits, targets, **how)
    return found


def losses_of(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    scale: float,
    cap: float | None,
    with_gradient: bool,
    watch: TokenStatistics | None = None,
    into: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the cross-entropy of every row of a layer's outputs, and its gradient to them; the outputs are used up.

    Args:
        logits: shape (rows, classes).
        targets: shape (rows,).
        scale: factor of the logits.
        cap: bound of the logits, or None.
        with_gradient: whether the gradient is wanted.
        watch: filled in place, or None.
        into: memory for the gradient, of at least as many rows; None for that of the outputs, which `watch` needs.
    """
    slope = bend(logits, scale, cap)
    wanted = targets[:, None]
    highest = logits.amax(dim=1, keepdim=True)
    picked = logits.gather(1, wanted) - highest
    shares = torch.softmax(logits, dim=1, out=logits if into is None else into[: len(logits)])  # one pass over memory
    rest = -shares.amax(dim=1, keepdim=True).log()  # log Σ exp(z - highest), for the highest's share is 1 / Σ
    losses = (rest - picked).squeeze(1)
    if watch:
        sums = _sums(watch, logits, shares, highest)
        _note(watch, sums, len(logits.T), picked.squeeze(1), rest.squeeze(1))
    if not with_gradient:
        return losses, None
    shares.scatter_add_(1, wanted, shares.new_full(wanted.shape, -1.0))  # softmax, and less 1 at the target
    return losses, shares if cap is None and scale == 1.0 else shares.mul_(slope)


def losses_of_slice(
    logits: torch.Tensor,
    targets: torch.Tensor,
    held: RowSlice,
    *,
    scale: float,
    cap: float | None,
    with_gradient: bool,
    watch: TokenStatistics | None = None,
    into: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what `losses_of` does, where processes divide the classes: each takes the softmax of its own, and one
    exchange of a few numbers of every row tells what share of the whole that is.

    Args:
        logits: of the classes that this process holds, shape (rows, classes held).
        targets: among all classes, shape (rows,).
        held: which classes those are.
        scale, cap, with_gradient, watch, into: as of `losses_of`; the gradient is that to the outputs given here.
    """
    slope = bend(logits, scale, cap)
    place = targets - held.first
    here = (place >= 0) & (place < held.count)
    wanted = place.clamp(0, held.count - 1)[:, None]
    highest = logits.amax(dim=1, keepdim=True)
    picked = logits.gather(1, wanted).squeeze(1).masked_fill(~here, 0)
    shares = torch.softmax(logits, dim=1, out=logits if into is None else into[: len(logits)])
    own = {"highest": highest.squeeze(1), "rest": -shares.amax(dim=1).log(), "picked": picked}
    told = _of_all({**own, **_sums(watch or {}, logits, shares, highest)}, held)
    level = told["highest"] - told["highest"].amax(dim=0)  # of each process's highest below that of all
    totals = told["rest"] + level
    rest = totals.logsumexp(dim=0)
    chances = (totals - rest).exp()  # that a process's classes have together, shape (processes, rows)
    picked = told["picked"].sum(dim=0) - told["highest"].amax(dim=0)
    if watch:
        _note(watch, _sums_of_all(told, chances, level), held.all, picked, rest)
    if not with_gradient:
        return rest - picked, None
    shares.mul_(chances[held.index, :, None]).scatter_add_(1, wanted, -here[:, None].to(shares.dtype))
    return rest - picked, shares if cap is None and scale == 1.0 else shares.mul_(slope)


def bend(logits: torch.Tensor, scale: float, cap: float | None) -> Any:
    """Make logits of a layer's outputs, in place: cap · tanh(scale · outputs / cap); return their slope to the
    outputs."""
    if scale != 1.0:
        logits *= scale
    if cap is None:
        return scale
    logits.div_(cap).tanh_()
    slope = (1 - logits.square()).mul_(scale)
    logits *= cap
    return slope


def _sums(watch: TokenStatistics, logits: torch.Tensor, shares: torch.Tensor, highest: torch.Tensor) -> TokenStatistics:
    """Return what is noted as sums over classes, shape (rows,): of the logits, which are used up; of them below the
    highest, by their softmax; and of its squares."""
    found = {}
    if "mean_logit" in watch:
        found["mean_logit"] = logits.sum(dim=1)
    if "entropy" in watch:
        found["entropy"] = logits.sub_(highest).mul_(shares).sum(dim=1)
    if "log_sum_square" in watch:
        found["log_sum_square"] = torch.mul(shares, shares, out=logits).sum(dim=1)
    return found


def _sums_of_all(told: TokenStatistics, chances: torch.Tensor, level: torch.Tensor) -> TokenStatistics:
    """Return what `_sums` gives of all classes, from that of every process, of its own softmax and highest logit."""
    found = {}
    if "mean_logit" in told:
        found["mean_logit"] = told["mean_logit"].sum(dim=0)
    if "entropy" in told:
        found["entropy"] = (chances * (told["entropy"] + level)).sum(dim=0)
    if "log_sum_square" in told:
        found["log_sum_square"] = (chances.square() * told["log_sum_square"]).sum(dim=0)
    return found


def _note(
    watch: TokenStatistics, sums: TokenStatistics, classes: int, picked: torch.Tensor, rest: torch.Tensor
) -> None:
    """Fill in what is noted, from the sums over all classes, the target's logit below the highest, and log Σ exp(z -
    highest)."""
    if "top1" in watch:
        watch["top1"].copy_(picked >= 0)
    if "mean_logit" in watch:
        watch["mean_logit"].copy_(sums["mean_logit"] / classes)
    if "entropy" in watch:  # -Σ p log p = log Σ exp z - Σ p z
        watch["entropy"].copy_(rest - sums["entropy"])
    if "log_sum_square" in watch:
        watch["log_sum_square"].copy_(sums["log_sum_square"].log())


def _of_all(own: TokenStatistics, held: RowSlice) -> TokenStatistics:
    """Return numbers of rows of every process, each of shape (processes, rows)."""
    mine = torch.stack(list(own.values()))
    everyone = mine.new_empty((held.processes * len(mine), mine.shape[1]))
    distributed.all_gather_into_tensor(everyone, mine, group=held.group)
    return dict(zip(own, everyone.unflatten(0, (held.processes, -1)).unbind(dim=1), strict=True))
