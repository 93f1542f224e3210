"""What differs between the versions of torch and transformers that are supported, in one place.

Every difference says from which floor of `pyproject.toml` on it can go. The table of tested versions is
`docs/versions.md`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

logger = logging.getLogger("trainwright")

TESTED = {"torch": "2.15", "transformers": "5.24"}
"""The newest releases that the tests have passed with; a test holds them against `docs/versions.md`."""

NO_FSDP = {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}
"""What TrainingArguments of transformers before 5.10 hold as fsdp_config where the user gave none."""

CHECKPOINTING = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Arguments that have another name from transformers 5.23 on."""


def keeps_graph() -> bool:
    """Whether the backward pass that is going on keeps its graph for another one; so if torch does not tell."""
    import torch

    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return tell is None or bool(tell())


def gives_grace() -> bool:
    """Whether torchrun can be told how long the processes may take to save and leave; 2.11's gives them 30 seconds."""
    return release(version("torch")) > (2, 11)


def goes_past_hooks() -> bool:
    """Whether adapters call the forward pass of the model that they are in, and none of its hooks; those of peft before
    0.21 do."""
    return release(version("peft")) < (0, 21)


@functools.cache
def takes_grouped(attention: Any) -> bool:
    """Whether torch's attention of rows of several lengths takes fewer heads of keys than of queries; 2.11's not."""
    return "enable_gqa" in inspect.signature(attention).parameters


@functools.cache
def warn_of_untested_versions() -> None:
    """Say, once per process, which libraries are newer than all that the tests have seen."""
    newer = []
    for name, tested in TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if release(found) > release(tested):
            newer.append(f"{name} {found} (tested up to {tested})")
    if newer:
        logger.warning(
            f"Newer than what this trainwright was tested with: {', '.join(newer)}. If numbers or errors surprise you, "
            "install a tested version (docs/versions.md) or a newer trainwright."
        )


def release(text: str) -> tuple[int, ...]:
    """Return major and minor number of a version such as 2.14.1+cu130."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def check_writing(repository: str, token: str | None) -> None:
    """Ask the hub whether a token may write to a repository, where huggingface_hub knows how to ask.

    Raises:
        HfHubHTTPError: it may not.
    """
    from huggingface_hub import auth_check

    if "write" in inspect.signature(auth_check).parameters:
        auth_check(repository, token=token, write=True)


def checkpointing_arguments(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Return arguments with the recomputing of activations under the names that a class of arguments knows.

    Args:
        values: arguments, among them those of `CHECKPOINTING` under both names.
        known: names of the class's fields; those of transformers before 5.23 are the older ones.
    """
    values = dict(values)
    for older, newer in CHECKPOINTING.items():
        old, new = values.pop(older), values.pop(newer)
        values[newer if newer in known else older] = old if new is None else new
    return values


def sound_beams(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return keywords of `generate` with which beam search is right: without a cache where it would be left unsorted.

    Before 5.13 transformers' beam search does not sort the states of models that call their cache `cache_params`, Mamba
    and its kin, with the beams.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    beams = settings.get("num_beams") or model.generation_config.num_beams or 1
    unsorted = (
        release(version("transformers")) < (5, 13) and "cache_params" in inspect.signature(inner.forward).parameters
    )
    return {**settings, "use_cache": False} if beams > 1 and unsorted else settings


@functools.cache
def cache_field() -> str:
    """Return what outputs call their cache: `cache` from transformers 5.24 on, and `past_key_values` before."""
    from transformers.modeling_outputs import Seq2SeqLMOutput

    fields = Seq2SeqLMOutput.__dataclass_fields__
    return "cache" if "cache" in fields else "past_key_values"


@contextmanager
def meta_autocast() -> Iterator[None]:
    """Let models ask inside whether autocast is on for the meta device, which torch before 2.13 does not know."""
    import torch

    known = torch.is_autocast_enabled

    def asked(device: str = "cuda") -> bool:
        return device != "meta" and known(device)

    torch.is_autocast_enabled = asked  # type: ignore[assignment]  # asks no less than torch's
    try:
        yield
    finally:
        torch.is_autocast_enabled = known
