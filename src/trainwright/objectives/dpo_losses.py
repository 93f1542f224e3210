"""The losses of direct preference optimisation and its relatives, as TRL 1.16 defines them.

Every function takes the log-ratios of policy and reference and returns one loss for every pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from trainwright.config.options import DPOOptions


@dataclass(frozen=True)
class Pairs:
    """What is known of a batch of pairs; every tensor has shape (pairs,).

    Attributes:
        chosen: log-probability of the chosen answer.
        rejected: that of the rejected one.
        ref_chosen: log-probability under the reference.
        ref_rejected: the same of the rejected answer.
        chosen_tokens: number of tokens of the chosen answer.
        rejected_tokens: the same of the rejected one.
        chosen_nll: mean over all tokens of all chosen answers of -log p; a scalar.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor
    chosen_nll: torch.Tensor


@dataclass(frozen=True)
class Scores:
    """The pairs' log-ratios, and what the divergence makes of them; every tensor has shape (pairs,)."""

    pairs: Pairs
    chosen: torch.Tensor
    rejected: torch.Tensor
    score_chosen: torch.Tensor
    score_rejected: torch.Tensor
    options: DPOOptions

    @property
    def beta(self) -> float:
        """How closely the reference is kept to."""
        return self.options.beta

    @property
    def smoothing(self) -> float:
        """Probability that a preference is the wrong way round."""
        return self.options.label_smoothing

    @property
    def margin(self) -> torch.Tensor:
        """Difference of the scores."""
        return self.score_chosen - self.score_rejected

    @property
    def mean_margin(self) -> torch.Tensor:
        """Difference of the scores, each divided by the tokens of its answer."""
        return self.score_chosen / self.pairs.chosen_tokens - self.score_rejected / self.pairs.rejected_tokens


def scores(pairs: Pairs, options: DPOOptions) -> Scores:
    """Return the log-ratios under a divergence (f-DPO, arXiv:2309.16240)."""
    chosen, rejected = pairs.chosen - pairs.ref_chosen, pairs.rejected - pairs.ref_rejected
    change = _DIVERGENCES[options.f_divergence_type]
    coefficient = options.f_alpha_divergence_coef
    return Scores(pairs, chosen, rejected, change(chosen, coefficient), change(rejected, coefficient), options)


def _alpha(ratio: torch.Tensor, coefficient: float) -> torch.Tensor:
    power = coefficient - 1.0
    if abs(power) < 1e-6:
        return ratio
    limit = 11.0 if ratio.dtype == torch.float16 else 80.0  # so that exp stays finite in the ratio's number format
    return ((power * ratio).float().clamp(max=limit).exp() - 1.0).to(ratio.dtype) / power


_DIVERGENCES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "reverse_kl": lambda ratio, _: ratio,
    "forward_kl": lambda ratio, _: 1 - torch.exp(-ratio),
    "js_divergence": lambda ratio, _: math.log(2) + logsigmoid(ratio),
    "alpha_divergence": _alpha,
}


def sigmoid(s: Scores) -> torch.Tensor:
    """DPO, arXiv:2305.18290, equation 7."""
    return -logsigmoid(s.beta * s.margin)


def hinge(s: Scores) -> torch.Tensor:
    """SLiC, arXiv:2305.10425, with log-ratios (RSO, arXiv:2309.06657)."""
    return torch.relu(1 - s.beta * s.margin)


def ipo(s: Scores) -> torch.Tensor:
    """IPO, arXiv:2310.12036, equation 17, with means over tokens."""
    return (s.mean_margin - 1 / (2 * s.beta)) ** 2


def exo_pair(s: Scores) -> torch.Tensor:
    """EXO, arXiv:2402.00856, equation 16."""
    z, noise = s.beta * s.margin, s.smoothing
    win = z.sigmoid() * (logsigmoid(z) - math.log1p(-noise))
    return win + (-z).sigmoid() * (logsigmoid(-z) - math.log(noise))


def nca_pair(s: Scores) -> torch.Tensor:
    """NCA, arXiv:2402.05369."""
    chosen, rejected = s.beta * s.chosen, s.beta * s.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def robust(s: Scores) -> torch.Tensor:
    """Robust DPO, arXiv:2403.00409."""
    z, noise = s.beta * s.margin, s.smoothing
    return (-(1 - noise) * logsigmoid(z) + noise * logsigmoid(-z)) / (1 - 2 * noise)


def bco_pair(s: Scores) -> torch.Tensor:
    """BCO, arXiv:2404.04656, without its running mean, which TRL has left out too."""
    return -logsigmoid(s.beta * s.chosen) - logsigmoid(-s.beta * s.rejected)


def sppo_hard(s: Scores) -> torch.Tensor:
    """SPPO, arXiv:2405.00675, equation 4.7 with probabilities 1 and 0."""
    return (s.chosen - 0.5 / s.beta) ** 2 + (s.rejected + 0.5 / s.beta) ** 2


def aot(s: Scores) -> torch.Tensor:
    """AOT, arXiv:2406.05882, algorithm 1: sorted within the micro-batch."""
    ours, reference = s.pairs.chosen - s.pairs.rejected, s.pairs.ref_chosen - s.pairs.ref_rejected
    return _smoothed(s, ours.sort().values - reference.sort().values)


def aot_unpaired(s: Scores) -> torch.Tensor:
    """AOT of unpaired answers, arXiv:2406.05882: sorted within the micro-batch."""
    return _smoothed(s, s.chosen.sort().values - s.rejected.sort().values)


def _smoothed(s: Scores, delta: torch.Tensor) -> torch.Tensor:
    z = s.beta * delta
    return -logsigmoid(z) * (1 - s.smoothing) - logsigmoid(-z) * s.smoothing


def apo_zero(s: Scores) -> torch.Tensor:
    """APO-zero, arXiv:2408.06266, equation 7."""
    return 1 - (s.beta * s.chosen).sigmoid() + (s.beta * s.rejected).sigmoid()


def apo_down(s: Scores) -> torch.Tensor:
    """APO-down, arXiv:2408.06266, equation 8."""
    return (s.beta * s.chosen).sigmoid() + 1 - (s.beta * (s.chosen - s.rejected)).sigmoid()


def discopop(s: Scores) -> torch.Tensor:
    """DiscoPOP, arXiv:2406.08414, equation 5."""
    z = s.beta * s.margin
    share = (z / s.options.discopop_tau).sigmoid()
    return -logsigmoid(z) * (1 - share) + torch.exp(-z) * share


def sft(s: Scores) -> torch.Tensor:
    """The mean loss of the chosen answers' tokens, the same for every pair."""
    return s.pairs.chosen_nll.expand(len(s.chosen))


def sigmoid_norm(s: Scores) -> torch.Tensor:
    """DPO with means over tokens in place of sums."""
    return -logsigmoid(s.beta * s.mean_margin)


LOSSES: dict[str, Callable[[Scores], torch.Tensor]] = {
    loss.__name__: loss
    for loss in (
        sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, aot_unpaired, apo_zero, apo_down,
        discopop, sft, sigmoid_norm,
    )
}  # fmt: skip


def losses_of(pairs: Pairs, options: DPOOptions, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the weighted sum of the chosen losses for every pair, shape (pairs,).

    Args:
        pairs: a micro-batch.
        options: which losses.
        weights: of the pairs (WPO, arXiv:2406.11827), shape (pairs,).
    """
    s = scores(pairs, options)
    factors = options.loss_weights or [1.0] * len(options.losses)
    total = sum(factor * LOSSES[name](s) for name, factor in zip(options.losses, factors, strict=True))
    assert isinstance(total, torch.Tensor)
    return total if weights is None else total * weights
