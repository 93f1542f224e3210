"""REINFORCE leave-one-out: completions of a prompt are worth what they earn more than the others of their group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainwright.config.keys.uses import KWARGS
from trainwright.config.methods import Fault, recipe
from trainwright.config.policy_options import RLOOOptions
from trainwright.methods.grpo import GRPO


class RLOO(GRPO):
    """Our Trainer on prompts and rewards, with ratios of whole completions."""

    options = RLOOOptions

    def example(self) -> str:
        """Return recipes/rloo.yaml."""
        return recipe("rloo")

    def own_faults(self, options: Any) -> Iterator[Fault]:
        """Yield what is wrong with the settings of this method alone."""
        bounds = options.reward_clip_range
        if bounds is not None and (len(bounds) != 2 or bounds[0] >= bounds[1]):
            yield f"{KWARGS}.reward_clip_range", f"reward_clip_range {bounds} is not [lowest, highest]", "[-1, 1]"
