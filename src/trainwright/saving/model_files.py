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
from trainwright.checkpoint.output import write_tensors
from trainwright.checkpoint.sharded import plan
from trainwright.checkpoint.sharded import weights as sharded
from trainwright.checkpoint.sharded.snapshot import Owned
from trainwright.losses.eval_context import averaged
from trainwright.parallel.strategy import Strategy
from trainwright.session.model_setup import users_configuration
from trainwright.session.session import Session


def save_model(session: Session, output_dir: str | None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """Write the weights, or others given for them, configuration and tokenizer, on the process that writes; where the
    model is spread over processes, all of them call it, and each writes its part."""
    place = Path(output_dir if output_dir is not None else session.args.output_dir or ".")
    if sharded.is_sharded(session.model) and state_dict is None:
        save_parts(session, place)
        return
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


def save_parts(session: Session, place: Path) -> None:
    """Write the weights, configuration and tokenizer into a folder; all processes call it, and each writes its part.

    Raises:
        UnsavableError: the model has other tensors in its files than in memory.
    """
    strategy, owned = session.strategy, Owned()
    if strategy.on_main(lambda: session.is_in_train and (place / layout.MANIFEST).exists()):
        return
    with averaged(session), users_configuration(session):
        tensors = strategy.on_all(lambda: sharded.on_disk(session.model))
        owner = owners_of(tensors, strategy)
        owned.take(strategy, tensors, owner)
        index = sharded.index_of(tensors, owner, strategy.share.count)
        strategy.on_main(lambda: write_around(session, place, index, renewed=True))
    owned.ready()
    if owned.tensors:
        write_tensors(owned.tensors, place / layout.of_share(layout.WEIGHTS, strategy.share))
    strategy.barrier()


def write_around(session: Session, place: Path, index: str, renewed: bool = False) -> None:
    """Write what belongs to no process in particular: the index, configuration, tokenizer and arguments.

    Args:
        session: with the model.
        place: the folder.
        index: of the model's files.
        renewed: whether weights that lie there are replaced, which other readers would take for these.
    """
    place.mkdir(parents=True, exist_ok=True)
    for old in [place / layout.WEIGHTS, *layout.shares_of(place, layout.WEIGHTS)] if renewed else []:
        old.unlink(missing_ok=True)
    weights.save_configuration(session.model, place)
    if (processor := processor_of(session)) is not None:
        processor.save_pretrained(place)
    (place / layout.INDEX).write_text(index, encoding="utf-8")
    save_arguments(session, place)


def owners_of(tensors: dict[str, torch.Tensor], strategy: Strategy) -> dict[str, int]:
    """Return the process that writes each tensor of a model."""
    return plan.owners({name: nbytes(tensor) for name, tensor in tensors.items()}, strategy.share.count)


def nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a whole tensor, wherever they lie."""
    return tensor.numel() * tensor.element_size()
