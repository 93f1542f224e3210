"""Signs that nothing is learned from generations, said once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_OFTEN = 5  # generations in a row
_MOST = 0.9  # share of groups whose rewards are all equal
_CUT = 0.5  # share of completions without an end
_GROWN = 2.0  # times the length of the first
_APART = 0.05  # mean difference of log-probabilities between sampler and trainer


class Symptoms:
    """Looks at the numbers of every generation.

    Args:
        note: tells the user.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._equal = 0
        self._first: float | None = None
        self._said: set[str] = set()

    def look(self, found: Mapping[str, float], most: int, masks_truncated: bool) -> None:
        """Look at the numbers of a generation (`metrics`).

        Args:
            found: the numbers.
            most: tokens that a completion has at most.
            masks_truncated: whether completions without an end are left out of the loss.
        """
        self._equal = self._equal + 1 if found["frac_reward_zero_std"] >= _MOST else 0
        length = found["completions/mean_length"]
        self._first = length if self._first is None else self._first
        if "reward" not in found:
            self._say(
                "none", "No completion of a generation has a reward, so nothing is learned: look at the functions."
            )
        if masks_truncated and found["completions/clipped_ratio"] == 1:
            self._say(
                "masked",
                f"All completions of a generation were cut off at max_completion_length={most}, and mask_truncated_"
                "completions leaves them out: nothing is learned of it. Give more room, or a reward for the end.",
            )
        if self._equal >= _OFTEN:
            self._say(
                "equal",
                f"In {_OFTEN} generations the rewards of at least {_MOST:.0%} of the groups were all equal: nothing is "
                "learned from those. Give prompts of which the model solves some and not others, more num_generations, "
                "or a reward that tells more than right and wrong.",
            )
        if length > _GROWN * self._first and found["completions/clipped_ratio"] > _CUT:
            self._say(
                "long",
                f"Completions have grown from {self._first:.0f} to {length:.0f} tokens, and "
                f"{found['completions/clipped_ratio']:.0%} are cut off at max_completion_length={most}. A reward for "
                "the end, or mask_truncated_completions: true, may help.",
            )
        if found.get("sampling/difference_mean", 0.0) > _APART:
            self._say(
                "apart",
                "The log-probabilities of the sampler differ from those of training by "
                f"{found['sampling/difference_mean']:.2g} in the mean; sampler_correction accounts for that.",
            )

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._note(sentence)
