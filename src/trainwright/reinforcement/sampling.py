"""How a method's completions are chosen."""

from __future__ import annotations

from trainwright.config.policy_options import PolicyOptions
from trainwright.generation.sampling import Sampling


def sampling_of(options: PolicyOptions) -> Sampling:
    """Return how tokens are chosen.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return Sampling(
        options.max_completion_length,
        options.temperature,
        options.top_k,
        options.top_p,
        options.min_p,
        options.repetition_penalty,
        tuple(options.stop),
    )
