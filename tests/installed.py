"""What a test needs to be installed: a library, or a transformers that does not do otherwise what is compared."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from importlib.util import find_spec

import pytest

from trainwright.compat import release

with_trl = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")
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
_DIVIDING = "tensor parallelism needs transformers 5.16"
divides_built_models = _from((5, 16), _DIVIDING)
sorts_states = _from((5, 13), "Mamba's cache is none of transformers' before 5.13, and is refused")


def lacking(case: str) -> str | None:
    """Return what a case of several ranks needs, by its name, that is not installed."""
    if TRANSFORMERS < (5, 16) and ("divided" in case or "tensor" in case):
        return _DIVIDING
    if release(version("torch")) < (2, 13):
        if case.endswith("chosen"):
            return "processes that use other parameters of a sharded model need torch 2.13"
        if "out of memory" in case or case.startswith("failed in a"):
            return "what processes that share a model have gathered in a step is let go of from torch 2.13 on"
    return None


def skip_what_peft_lacks(name: str) -> None:
    """Skip what is tried with MiCA where the installed peft does not know it."""
    from peft import LoraConfig

    if "mica" in name.lower() and "mica" not in inspect.getsource(LoraConfig):
        pytest.skip("this peft has no MiCA")
