"""Whether a reward model is as often right as it is sure: pairs by how sure it is of them (Guo et al. 2017,
arXiv:1706.04599)."""

from __future__ import annotations

import torch

NAME = "calibration"
EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of how sure a model is of a pair: the probability, by its scores, of the answer that it prefers."""


def calibration(margins: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return (numbers by name, which part of the batch each is a mean over).

    For the pairs between two edges these are `calibration/<lower edge>/right`, how many are the right way round (half
    of those with equal scores), `sure`, how many ought to be, and `share`, their part of all pairs.

    Args:
        margins: score of the better answer less that of the worse one, shape (pairs,).
    """
    sure, right = margins.abs().sigmoid(), (margins.sign() + 1) / 2
    bins = torch.bucketize(sure, torch.tensor(EDGES[1:-1], device=sure.device, dtype=sure.dtype), right=True)
    terms, parts = {}, {}
    for number, low in enumerate(EDGES[:-1]):
        inside = (bins == number).to(sure.dtype)
        share, count = inside.mean(), inside.sum().clamp(min=1)
        for name, values in (("right", right), ("sure", sure)):
            terms[f"{NAME}/{low}/{name}"] = (values * inside).sum() / count
            parts[f"{NAME}/{low}/{name}"] = share
        terms[f"{NAME}/{low}/share"] = share
    return terms, parts
