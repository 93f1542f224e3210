"""The parts of a training loop of one's own; docs/own_loop.md has one.

They are those that the engine is made of. `Objective`, `Loss`, `Strategy`, `Stateful` and `Tracker` are in
`trainwright` itself.
"""

from __future__ import annotations

from trainwright.checkpoint.checkpoints import Checkpoints as Checkpoints
from trainwright.data.loaders.batches import Steps as Steps
from trainwright.data.loaders.batches import batches as batches
from trainwright.data.loaders.batches import weighed as weighed
from trainwright.losses.forward_backward import forward_backward as forward_backward
from trainwright.objectives.model_loss import ModelLoss as ModelLoss
from trainwright.parallel.choice import start_strategy as start_strategy
from trainwright.parallel.ddp import DataParallel as DataParallel
from trainwright.parallel.precision import Precision as Precision
from trainwright.parallel.precision import choose_precision as choose_precision
from trainwright.randomness import Streams as Streams
from trainwright.randomness import draw_apart as draw_apart
from trainwright.session.signals import Signals as Signals
from trainwright.session.signals import exception_for as exception_for

__all__ = [
    "Checkpoints",
    "DataParallel",
    "ModelLoss",
    "Precision",
    "Signals",
    "Steps",
    "Streams",
    "batches",
    "choose_precision",
    "exception_for",
    "draw_apart",
    "forward_backward",
    "start_strategy",
    "weighed",
]
