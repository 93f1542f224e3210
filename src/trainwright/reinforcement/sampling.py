"""How a method's completions are chosen."""

from __future__ import annotations

from trainwright.config.policy_options import PolicyOptions
from trainwright.generation.sampling import Sampling


def sampling_of(options: PolicyOptions, held_out: bool = False) -> Sampling:
    """Return how tokens are chosen; `held_out` is of an evaluation.

    Raises:
        ConfigError: a setting is out of its range.
    """
    own = options.temperature_eval if held_out else None
    return Sampling(
        options.max_completion_length,
        options.temperature if own is None else own,
        options.top_k,
        options.top_p,
        options.min_p,
        options.repetition_penalty,
        tuple(options.stop),
    )
