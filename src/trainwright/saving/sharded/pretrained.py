"""`save_pretrained` of a model that several processes share, whose own finds parts where it looks for weights; and what
is said where such parts are pickled."""

from __future__ import annotations

import copyreg
import logging
import weakref
from functools import cache, partial
from pathlib import Path
from typing import Any

from trainwright.checkpoint.sharded.weights import is_sharded
from trainwright.errors import ConfigError
from trainwright.parallel.layouts.boxes import local
from trainwright.saving.model_files import save_parts
from trainwright.session.session import Session

logger = logging.getLogger("trainwright")
_OF_NO_EFFECT = ("is_main_process", "safe_serialization", "max_shard_size", "save_original_format")


def follow(session: Session) -> None:
    """Let a sharded model's `save_pretrained` write what `save_model` does: all processes call it; and say where its
    tensors are pickled."""
    model: Any = session.model
    if not is_sharded(model):
        return
    from torch.distributed.tensor import DTensor

    copyreg.pickle(DTensor, _pickled)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained = partial(_save, weakref.ref(session), type(model).save_pretrained, model)


def _pickled(tensor: Any) -> Any:
    """Return what pickle writes of a DTensor, which is this process's part alone."""
    if local(tensor).numel() < tensor.numel():
        _tell_of_parts()
    return tensor.__reduce_ex__(2)


@cache  # once
def _tell_of_parts() -> None:
    logger.warning(
        "A tensor that processes share is being pickled, as by torch.save(model.state_dict()): what is written is this "
        "process's part alone. All processes write the model by trainer.save_model(folder); all weights at once are "
        "trainer.accelerator.get_state_dict(trainer.model)."
    )


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
