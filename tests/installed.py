"""Comparisons that say nothing with an older transformers, each with what that one does otherwise."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest

from trainwright.compat import release

TRANSFORMERS = release(version("transformers"))


def _from(number: tuple[int, int], reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(number > TRANSFORMERS, reason=reason)


true_mean = _from((5, 10), "transformers before 5.10 counts the first label of every row, which no causal loss has")
divided_once = _from(
    (5, 6), "transformers before 5.6 divides by the accumulation itself, and lets accelerate do it once more"
)
todays_arguments = _from(
    (5, 23), "the tables are those of transformers from 5.23 on; those before have fewer arguments"
)
todays_transformers = _from(
    (5, 23), "the oldest transformers does otherwise here; what is compared is what it does from 5.23 on"
)


def skip_what_peft_lacks(name: str) -> None:
    """Skip what is tried with MiCA where the installed peft does not know it."""
    from peft import LoraConfig

    if "mica" in name.lower() and "mica" not in inspect.getsource(LoraConfig):
        pytest.skip("this peft has no MiCA")
