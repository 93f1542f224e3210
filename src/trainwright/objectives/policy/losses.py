"""The losses of GRPO's family and of RLOO: pure functions of log-probabilities, advantages and a mask.

Each gives a loss per completion; what is minimised is their mean over the completions of a step, so micro-batches and
ranks add up. All tensors of tokens have the shape (completions, tokens).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trainwright.config.policy_options import CLIPPED, GRPOOptions, RLOOOptions

_BY_TOKENS = ("dapo", "cispo", "vespo")  # losses that are divided by the tokens of the generation
_FAR = 20.0  # of a log-ratio


@dataclass
class Policy:
    """Some completions, as the policy and others see them.

    Attributes:
        new: log-probabilities under the policy that is trained, with a gradient.
        mask: 1 for tokens that count, else 0.
        advantages: shape (completions,).
        old: log-probabilities under the policy at the generation; None where that is the one that is trained.
        reference: under the reference; None without one.
        sampler: as the sampler has them; None where they are not used.
        entropy: of the prediction of every token, in nats; with a gradient where it counts in the loss.
        tokens_per_completion: mean number of tokens that count, over the whole generation.
    """

    new: torch.Tensor
    mask: torch.Tensor
    advantages: torch.Tensor
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    sampler: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    tokens_per_completion: torch.Tensor | float = 1.0

    @property
    def before(self) -> torch.Tensor:
        """Log-probabilities at the generation."""
        return self.new.detach() if self.old is None else self.old

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return sums over the tokens that count, shape (completions,)."""
        return (values * self.mask).sum(-1)

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens that count, at least 1, shape (completions,)."""
        return self.mask.sum(-1).clamp(min=1)


def grpo(policy: Policy, options: GRPOOptions) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return (the loss of every completion, shape (completions,), what is logged).

    Sources: GRPO arXiv:2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, CISPO 2506.13585, GSPO 2507.18071, SAPO
    2511.20347; VESPO, LUSPO and BNPO as TRL 1.16 has them.
    """
    ratios = torch.exp(log_ratios(policy, options.importance_sampling_level))
    advantages = policy.advantages[:, None]
    losses, terms = of_tokens(policy, options, ratios, advantages)
    losses = losses * kept_on_policy(policy, options)
    chosen = of_high_entropy(policy, options.top_entropy_quantile)
    losses = losses * chosen
    if options.sampler_correction is not None and options.loss_type != "vespo":
        losses = losses * correction(policy, options)
    if policy.reference is not None and options.beta:
        distance = kl(policy.new, policy.reference, options.kl_estimator)
        distance = distance * ratios if options.use_bias_correction_kl else distance
        losses = losses + options.beta * distance
        terms["kl"] = mean(policy, distance)
    total = aggregated(policy, losses, options)
    if options.entropy_coef and policy.entropy is not None:
        counted = policy.mask * chosen
        bonus = (policy.entropy * counted).sum() / counted.sum().clamp(min=1)
        total = total - options.entropy_coef * bonus  # a mean of means over micro-batches, as TRL's
    return total, terms


def log_ratios(policy: Policy, level: str) -> torch.Tensor:
    """Return the logarithm of new to old probability: of every token, or the mean of the completion's, shape
    (completions, 1)."""
    found = policy.new - policy.before
    return found if level == "token" else (policy.sums(found) / policy.lengths)[:, None]


def of_tokens(
    policy: Policy, options: GRPOOptions, ratios: torch.Tensor, advantages: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return (the policy's loss of every token, or one for all of a completion, what is logged)."""
    if options.loss_type in CLIPPED:
        return clipped(policy, ratios, advantages, options)
    if options.loss_type == "cispo":
        bound = options.cispo_high if options.epsilon_high is None else options.epsilon_high
        reached = ((ratios > bound) & (advantages > 0)).float()
        losses = -ratios.clamp(max=bound).detach() * advantages * policy.new
        return losses, {"cispo_clip_ratio": mean(policy, reached)}
    if options.loss_type == "sapo":
        sharp = torch.where(advantages > 0, options.sapo_temperature_pos, options.sapo_temperature_neg)
        return -torch.sigmoid(sharp * (ratios - 1)) * 4 / sharp * advantages, {}
    weights = gamma_weights(policy, options, advantages)
    return -weights * advantages * policy.new, {"vespo/phi_seq_mean": weights.mean()}


def clipped(
    policy: Policy, ratios: torch.Tensor, advantages: torch.Tensor, options: GRPOOptions | RLOOOptions
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return -min(ratio · A, clip(ratio, 1 - ε, 1 + ε_high) · A), with an outer bound `delta` of the first ratio."""
    delta = getattr(options, "delta", None)
    within = ratios.clamp(1 - options.epsilon, 1 + options.upper)
    bounded = ratios if delta is None else ratios.clamp(max=delta)
    low = (bounded < 1 - options.epsilon) & (advantages < 0)
    high = (bounded > 1 + options.upper) & (advantages > 0)
    terms = {f"clip_ratio/{name}_mean": mean(policy, one.float()) for name, one in
             {"low": low, "high": high, "region": low | high}.items()}  # fmt: skip
    return -torch.minimum(bounded * advantages, within * advantages), terms


@torch.no_grad()
def gamma_weights(policy: Policy, options: GRPOOptions, advantages: torch.Tensor) -> torch.Tensor:
    """Return VESPO's weights exp(λ + k·log w - λ·w) of the completions' ratios w, shape (completions, 1)."""
    least = math.log(1e-8)
    logs = policy.sums((policy.new - policy.before).clamp(-_FAR, _FAR))[:, None]
    if options.sampler_correction is not None:
        logs = logs + correction(policy, options).log().clamp(least, _FAR).sum(dim=-1, keepdim=True)
    logs = logs.clamp(least, _FAR)
    power = torch.where(advantages >= 0, options.vespo_k_pos, options.vespo_k_neg)
    decay = torch.where(advantages >= 0, options.vespo_lambda_pos, options.vespo_lambda_neg).clamp(min=1e-4)
    return torch.exp(decay + power * logs - decay * logs.exp()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def kept_on_policy(policy: Policy, options: GRPOOptions) -> torch.Tensor | float:
    """Return 1 for completions that are kept, 0 for those of negative advantage that have become unlikely since they
    were written, shape (completions, 1) (DeepSeek-V3.2)."""
    if options.off_policy_mask_threshold is None:
        return 1.0
    written = policy.before if policy.sampler is None else policy.sampler
    drift = policy.sums((written - policy.new.detach()).nan_to_num(nan=0.0)) / policy.lengths
    return ((policy.advantages >= 0) | (drift <= options.off_policy_mask_threshold)).to(policy.new.dtype)[:, None]


def of_high_entropy(policy: Policy, share: float) -> torch.Tensor | float:
    """Return 1 for the tokens of a micro-batch with the highest entropy (arXiv:2506.01939), else 0; 1.0 for all."""
    if share >= 1 or policy.entropy is None:
        return 1.0
    entropy, counted = policy.entropy.detach(), policy.mask.bool()
    if not bool(counted.any()):
        return 1.0
    least = torch.quantile(entropy[counted].float(), 1 - share)
    return ((entropy >= least) & counted).to(policy.new.dtype)


@torch.no_grad()
def correction(policy: Policy, options: GRPOOptions) -> torch.Tensor:
    """Return what a loss is multiplied by since the sampler's probabilities are not the trainer's: old / sampler of
    each token, or of the completion, shape (completions, 1); bounded, or 0 out of bounds."""
    assert policy.sampler is not None
    off = ((policy.before - policy.sampler) * policy.mask).nan_to_num(nan=0.0)
    level, _, what = (options.sampler_correction or "").partition("_")
    ratios = (off.sum(-1, keepdim=True) if level == "sequence" else off).exp()
    low, high = options.sampler_correction_min, options.sampler_correction_max
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if what == "truncate":
        return ratios.clamp(low, high)
    return ratios.masked_fill((ratios < low) | (ratios > high), 0.0)


def kl(new: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Return an estimate of KL(policy ‖ reference) at every token: k1, k2 or k3 (Schulman 2020,
    joschu.net/blog/kl-approx.html)."""
    off = reference - new
    if estimator == "k1":
        return -off
    return off.square() / 2 if estimator == "k2" else torch.exp(off) - off - 1


def aggregated(policy: Policy, losses: torch.Tensor, options: GRPOOptions) -> torch.Tensor:
    """Return the loss of every completion, from those of its tokens: the mean over its tokens (grpo, sapo), or the sum
    by what the loss divides by, so that the mean over completions is the loss."""
    sums = policy.sums(losses)
    if options.loss_type in ("grpo", "sapo"):
        return sums / policy.lengths
    if options.loss_type == "dr_grpo":
        return sums / options.max_completion_length
    if options.loss_type == "bnpo":  # the mean over the tokens of a micro-batch
        return sums * len(sums) / policy.mask.sum().clamp(min=1)
    if options.loss_type in _BY_TOKENS:
        return sums / policy.tokens_per_completion
    return sums


def rloo(policy: Policy, options: RLOOOptions) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return (the loss of every completion, shape (completions,), what is logged): of the ratio of whole completions,
    which is clipped as PPO's."""
    ratios = torch.exp(policy.sums(policy.new - policy.before))[:, None]
    losses, terms = clipped(policy, ratios, policy.advantages[:, None], options)
    if policy.reference is not None:
        terms["kl"] = mean(policy, policy.before - policy.reference)
    return losses.squeeze(1), terms


@torch.no_grad()
def mean(policy: Policy, values: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens that count, or over completions where there is one value for each."""
    if values.shape[1] == 1:
        return values.mean()
    return (values * policy.mask).sum() / policy.mask.sum().clamp(min=1)
