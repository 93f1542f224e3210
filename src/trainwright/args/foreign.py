"""transformers' own TrainingArguments, and subclasses of it: checked, completed, and then used as they are."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from trainwright import compat
from trainwright.args import normalize
from trainwright.args.training import Seq2SeqTrainingArguments, TrainingArguments
from trainwright.args.validate import validate
from trainwright.errors import ConfigError

_THEIR_OWN = (
    "accelerator_config",
    "fsdp_config",
    "restore_callback_states_from_checkpoint",
)  # objects and defaults not ours


def adopt(args: Any) -> Any:
    """Return the arguments themselves, with the fields that only ours have set to their defaults.

    Raises:
        ConfigError: they are no arguments of transformers, or hold what cannot work here.
    """
    if not is_dataclass(args) or not hasattr(args, "per_device_train_batch_size"):
        raise ConfigError(f"args={args!r} is {type(args).__name__}; give TrainingArguments(output_dir=...).")
    if not hasattr(args, "train_batch_size"):
        return _made_of(args)
    check(args)
    if getattr(args, "_n_gpu", 0) > 1:
        setattr(args, "_n_gpu", 1)  # noqa: B010 - one device; transformers would use all
    return args


def check(args: Any) -> None:
    """Check arguments, ours or transformers', and bring them into one form again: they may have been changed.

    Raises:
        ConfigError: listing every argument that cannot work.
    """
    if isinstance(args, TrainingArguments):
        normalize.normalize(args)
        validate(args)
        return
    ours = _made_of(args)
    for field in fields(ours):
        value = getattr(ours, field.name)
        if field.name not in _THEIR_OWN and getattr(args, field.name, _ABSENT) != value:
            setattr(args, field.name, value)


def restores_callbacks(args: Any) -> bool:
    """Whether callbacks go on with their state; of transformers' arguments, whose default is False, always."""
    return args.restore_callback_states_from_checkpoint or not isinstance(args, TrainingArguments)


def _made_of(args: Any) -> TrainingArguments:
    """Return ours with the values of another library's dataclass of the same field names."""
    kind: Any = Seq2SeqTrainingArguments if hasattr(args, "predict_with_generate") else TrainingArguments
    known = {f.name for f in fields(kind)} - {"restore_callback_states_from_checkpoint"}
    values = {name: getattr(args, name) for name in known if hasattr(args, name)}
    if values.get("fsdp_config") == compat.NO_FSDP:
        values.pop("fsdp_config")
    theirs = {f.name for f in fields(args)}
    for newer in compat.CHECKPOINTING.values():
        if newer not in theirs:  # set here by an earlier check; the field of theirs is the one that can have changed
            values.pop(newer, None)
    made: TrainingArguments = kind(**values)
    return made


_ABSENT = object()
