"""A model in a folder of its own or in a checkpoint: weights, configuration, tokenizer, arguments."""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.checkpoint import layout
from trainwright.checkpoint.model import adapters, weights
from trainwright.checkpoint.output import write_tensors
from trainwright.checkpoint.sharded import weights as sharded
from trainwright.checkpoint.sharded.snapshot import Owned
from trainwright.checkpoint.sharded.weights import Contents
from trainwright.errors import CheckpointError
from trainwright.losses.eval_context import averaged
from trainwright.session.model_setup import users_configuration
from trainwright.session.session import Session

_PATIENCE = 60.0  # seconds in which all ranks have come to a save of the model
_meetings: Counter[str] = Counter()  # of all ranks, in such saves


def save_model(session: Session, output_dir: str | None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """Write the weights, or others given for them, configuration and tokenizer, on the process that writes; where the
    model is spread over processes, all of them call it, and each writes its part."""
    place = Path(output_dir if output_dir is not None else session.args.output_dir or ".")
    if sharded.is_sharded(session.model) and state_dict is None:
        save_parts(session, place, "save_model")
        return
    if session.args.should_save and not (session.is_in_train and (place / layout.MANIFEST).exists()):
        with averaged(session.ema, session.model), users_configuration(session):
            weights.save_model(
                session.model, place, processor_of(session.processing_class, session.data_collator), state_dict
            )
        save_arguments(session, place)


def processor_of(processor: Any, collator: Any) -> Any:
    """Return what is saved with the model: the Trainer's tokenizer or processor, or else its collator's."""
    if processor is not None:
        return processor
    tokenizer = getattr(collator, "tokenizer", None)
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


def save_parts(session: Session, place: Path, called: str) -> None:
    """Write the weights, configuration and tokenizer into a folder; all processes call it, and each writes its part.

    Args:
        session: with the model.
        place: the folder.
        called: the name of what the user has called.

    Raises:
        CheckpointError: some processes do not call it.
    """
    strategy, owned = session.strategy, Owned()
    if strategy.all_here(f"{called} {_meetings[called]}", None, _PATIENCE) is None:
        raise CheckpointError(
            f"{called} was called on some ranks alone (waited {_PATIENCE:g} s for the others), and each holds a part "
            "of the model. Call it on all ranks: the files are written once."
        )
    _meetings[called] += 1
    if strategy.on_main(lambda: session.is_in_train and (place / layout.MANIFEST).exists()):
        return
    with averaged(session.ema, session.model), users_configuration(session):
        contents = strategy.on_all(lambda: sharded.contents_of(session.model, strategy.share.count, to_give_on=True))
        owned.take(strategy, contents.tensors, contents.owner)
        strategy.on_main(lambda: drop_weights(place))
        strategy.on_main(lambda: write_around(session, place, contents, owned, adapters.export))
    owned.ready()
    if owned.tensors and not contents.adapters:
        written = contents.written(session.model, owned.tensors, strategy.share.index)
        write_tensors(written, place / layout.of_share(layout.WEIGHTS, strategy.share))
    strategy.barrier()


def drop_weights(place: Path) -> None:
    """Delete weights that lie in a folder, which other readers would take for those that are written now."""
    for old in [place / layout.WEIGHTS, *layout.shares_of(place, layout.WEIGHTS)]:
        old.unlink(missing_ok=True)


def write_around(
    session: Session, place: Path, contents: Contents, owned: Owned, write_adapters: Callable[[nn.Module, Path], None]
) -> None:
    """Write what belongs to no process in particular: configuration, tokenizer and arguments, and the index of the
    model's files, or adapters.

    Args:
        session: with the model.
        place: the folder.
        contents: what the model's files hold.
        owned: the tensors that are whole on this process.
        write_adapters: how these are written.
    """
    place.mkdir(parents=True, exist_ok=True)
    if contents.adapters:
        owned.ready()
        with sharded.holding(session.model, owned.tensors):
            write_adapters(session.model, place)
    else:
        weights.save_configuration(session.model, place)
        (place / layout.INDEX).write_text(contents.index(session.strategy.share.count), encoding="utf-8")
    if (processor := processor_of(session.processing_class, session.data_collator)) is not None:
        processor.save_pretrained(place)
    save_arguments(session, place)
