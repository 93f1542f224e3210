"""What an objective must know of all micro-batches of a step before the first of them is computed."""

from __future__ import annotations

from dataclasses import replace

import torch

from trainwright.losses import fused_loss
from trainwright.losses.step_batch import StepBatch
from trainwright.objectives.objective import Objective
from trainwright.session.run import Run


def look_ahead(run: Run, work: StepBatch) -> StepBatch:
    """Return the work with what the objective puts into its micro-batches; most put nothing there."""
    session = run.session
    if type(session.objective).look_ahead is Objective.look_ahead or not work.total:
        return work
    fused_loss.before_loss(session, work.batches[0])
    with torch.no_grad(), session.hooks.compute_loss_context_manager():
        batches = session.objective.look_ahead(run.model, work.batches, work.items, session.strategy)
    return replace(work, batches=batches)
