"""Ranks that are not alike train apart without a word: what must be equal on all is compared before the start."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import Enum
from importlib.metadata import version
from typing import Any

from trainwright import __version__
from trainwright.args.training import Seq2SeqTrainingArguments
from trainwright.data.introspection import length_of
from trainwright.errors import ConfigError
from trainwright.inputs.dividing import shard_of
from trainwright.session.session import Session

_OF_A_MACHINE = (  # arguments that change no number, and may differ
    "output_dir", "local_rank", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project",
    "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "hub_token", "ddp_timeout", "debug",
    "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_always_push", "log_on_each_node",
    "skip_memory_metrics",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "resume_from_checkpoint", "do_train", "do_eval", "do_predict",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "transformers")
_SHOWN = 3


def check(session: Session, wanted: Any) -> None:
    """Compare arguments, data, model and versions of all ranks; nothing is done with one.

    Args:
        wanted: what the run is to go on from.

    Raises:
        ConfigError: on every rank, naming the first one that differs from rank 0, and in what.
    """
    if not session.strategy.is_distributed:
        return
    everyone = session.strategy.gather(dict(facts(session, wanted)))
    for rank, mine in enumerate(everyone):
        told = differences(everyone[0], mine, rank)
        if told:
            more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
            raise ConfigError(
                f"The ranks are not alike: {'; '.join(told[:_SHOWN])}{more}. Start every rank with the same script, "
                "arguments, data and packages."
            )


def differences(first: Mapping[str, Any], other: Mapping[str, Any], rank: int) -> list[str]:
    """Return what differs between rank 0 and another one, in words."""
    return [
        f"{name} is {first.get(name, 'missing')!r} on rank 0 and {other.get(name, 'missing')!r} on rank {rank}"
        for name in {**first, **other}
        if first.get(name, "missing") != other.get(name, "missing")
    ]


def facts(session: Session, wanted: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and value of everything that must be equal."""
    for field in fields(Seq2SeqTrainingArguments):  # not the fields of a user's own subclass, which may well differ
        if field.name not in _OF_A_MACHINE and hasattr(session.args, field.name):
            yield field.name, plain(getattr(session.args, field.name))
    yield "resume_from_checkpoint", plain(wanted)
    data = {"training": (session.train_dataset, session.train_loader)}
    sets = session.eval_dataset if isinstance(session.eval_dataset, dict) else {"evaluation": session.eval_dataset}
    data |= {name: (rows, session.eval_loader) for name, rows in sets.items()}
    for name, (rows, loader) in data.items():
        if shard_of(session, rows) == session.strategy.data_shard:
            yield f"the number of rows of the {name} data", length_of(rows)
        if shard_of(session, loader) == session.strategy.data_shard:
            yield f"the number of batches of the {name} loader", length_of(loader)
    for name, parameter in session.model.named_parameters():
        yield f"the parameter {name}", f"{tuple(parameter.shape)} {parameter.dtype}, trained: {parameter.requires_grad}"
    for number, group in enumerate(session.optimizer.param_groups if session.optimizer is not None else ()):
        known = {"lr", *getattr(session.optimizer, "defaults", {})}  # what else lies in a group is the user's own
        for key in group.keys() & known:
            yield f"{key} of the optimizer's group {number}", plain(group[key])
    yield "the version of trainwright", __version__  # which may run from its source, not installed
    for name in _PACKAGES:
        yield f"the version of {name}", version(name)
    yield "the version of python", platform.python_version()


def plain(value: Any) -> Any:
    """Return a value as numbers, texts and lists of them; of other objects, which cannot be compared, the type.

    NaN, which is not equal to itself, becomes text.
    """
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else type(value).__name__
