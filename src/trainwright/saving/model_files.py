"""A model in a folder of its own or in a checkpoint: weights, configuration, tokenizer, arguments."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from trainwright.checkpoint import layout
from trainwright.checkpoint.model import weights
from trainwright.losses.eval_context import averaged
from trainwright.session.model_setup import users_configuration
from trainwright.session.session import Session


def save_model(session: Session, output_dir: str | None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """Write the weights, or others given for them, configuration and tokenizer, on the process that writes."""
    place = Path(output_dir if output_dir is not None else session.args.output_dir or ".")
    if session.args.should_save and not (session.is_in_train and (place / layout.MANIFEST).exists()):
        with averaged(session), users_configuration(session):
            weights.save_model(session.model, place, processor_of(session), state_dict)
        save_arguments(session, place)


def processor_of(session: Session) -> Any:
    """Return what is saved with the model: the Trainer's tokenizer or processor, or else its collator's."""
    if session.processing_class is not None:
        return session.processing_class
    tokenizer = getattr(session.data_collator, "tokenizer", None)
    return tokenizer if hasattr(tokenizer, "save_pretrained") else None


def save_arguments(session: Session, place: Path) -> None:
    """Write `training_args.bin`, which other tools read; it is never read here, and holds no token."""
    args, packed = copy.copy(session.args), io.BytesIO()
    args.hub_token = None
    try:
        torch.save(args, packed)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        problem = f"{layout.ARGUMENTS} is left out: the arguments cannot be pickled ({error})."
        (session.note if session.run is None else session.run.note_once)(problem)
        return
    (place / layout.ARGUMENTS).write_bytes(packed.getvalue())
