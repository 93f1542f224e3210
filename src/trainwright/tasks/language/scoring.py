"""Scores of rows that come without their padding: only where it was seen that they are the same."""

from __future__ import annotations

from typing import Any

from trainwright.inputs import document_isolation
from trainwright.losses import fused_loss
from trainwright.models.head import Scores
from trainwright.objectives.language import FusedLoss
from trainwright.session.session import Session
from trainwright.tasks.language.method import Text


def flatten(session: Session, text: Text) -> None:
    """Let a reward objective put rows one after another, where its model is found to keep them apart.

    Args:
        session: of the run, before any step.
        text: whose rows the model is tried with.

    """
    objective: Any = session.objective
    shared = session.strategy.shards_state  # a look at one process's own rows would leave the others waiting
    if shared or objective.layer is None or text.options.trl_compatible or session.args.torch_compile is True:
        return
    context = fused_loss.flat_rows(session, session.model)
    if context is None:
        return
    watched = FusedLoss(Scores(objective.layer), context)  # type: ignore[arg-type]  # any layer of scores
    ids = session.strategy.to_device(text.train[0]["chosen_ids"])
    session.strategy.place(session.model)
    reason = document_isolation.leak(session, session.model, watched, ids, {"use_cache": False})
    if reason is None:
        objective.flat_rows = context
        return
    fused_loss.keep_padding(session.model, watched)
    session.note(f"Batches keep their padding: with several documents in one row, {reason}.")
