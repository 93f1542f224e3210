"""`save_pretrained` of a model that several processes share: its own finds parts where it looks for weights."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any

from trainwright.checkpoint.sharded.weights import is_sharded
from trainwright.errors import ConfigError
from trainwright.saving.model_files import save_parts
from trainwright.session.session import Session

_OF_NO_EFFECT = ("is_main_process", "safe_serialization", "max_shard_size", "save_original_format")


def follow(session: Session) -> None:
    """Let a sharded model's `save_pretrained` write what `save_model` does: all processes call it."""
    model: Any = session.model
    if hasattr(model, "save_pretrained") and is_sharded(model):
        model.save_pretrained = partial(_save, weakref.ref(session), type(model).save_pretrained, model)


def _save(
    known: weakref.ref[Session],
    own: Any,
    model: Any,
    save_directory: str | Path,
    state_dict: Any = None,
    **options: Any,
) -> Any:
    """Save a model with its processor, each process its part, as `Trainer.save_model`.

    Raises:
        ConfigError: its Trainer is gone, or an option is given that this way to save does not know.
        CheckpointError: some processes do not call it.
    """
    session = known()
    if state_dict is not None or not is_sharded(model):
        return own(model, save_directory, state_dict=state_dict, **options)
    unknown = [name for name, value in options.items() if name not in _OF_NO_EFFECT and value]
    if unknown or session is None:
        told = (
            f"and save_pretrained takes a folder alone then, no {', no '.join(unknown)}" if unknown else "each a part"
        )
        raise ConfigError(
            f"Several processes share this {type(model).__name__}, {told}: call trainer.save_model(folder) on all of "
            "them, and trainer.push_to_hub() to publish it."
        )
    return save_parts(session, Path(save_directory), "save_pretrained")
