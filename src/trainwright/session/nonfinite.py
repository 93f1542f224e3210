"""Whether a step's loss and gradients are finite: a bad step changes nothing, and is reported with its rows.

Nothing here waits for the device. A fused optimizer skips the update itself when its `found_inf` is set; the numbers of
a step are copied to the host in the background and read when the next step is done.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from trainwright import devices
from trainwright.data.loaders.loader import PlannedLoader, TrainLoader
from trainwright.errors import DivergenceError
from trainwright.session.buffers import Buffers
from trainwright.session.meters import LossMeter
from trainwright.session.session import Session
from trainwright.session.trainable import Trained

_SPIKE_WINDOW = 101
_SPIKE_STEPS_BEFORE = 10


@dataclass
class Reading:
    """The numbers of one step on their way to the host: [is bad, loss, norm of every gradient, by `names`]; of every
    step, so these are the keys of what is trained, and not a list of them."""

    step: int
    epoch: int
    position: int
    bad: torch.Tensor | bool
    loss: torch.Tensor
    norms: torch.Tensor
    names: Collection[str]
    arrived: torch.Event | None = None

    def send(self) -> None:
        """Begin to copy the numbers from the device; on the host there is nothing to do."""
        if isinstance(self.bad, torch.Tensor):
            device = self.bad.device
            self.bad, self.loss, self.norms = (devices.sent(value) for value in (self.bad, self.loss, self.norms))
            self.arrived = devices.queued(device)

    def wait(self) -> None:
        """Wait for the numbers, which have arrived unless the device is more than a step behind."""
        if self.arrived is not None:
            self.arrived.synchronize()


class Health:
    """Watches the steps of a run."""

    def __init__(self, session: Session, trained: Trained, meter: LossMeter, loader: TrainLoader) -> None:
        self.session = session
        self.trained = trained
        self.meter = meter
        self.loader = loader
        self.in_a_row = 0
        self.watched: dict[str, torch.nn.Parameter] = {}
        self.never_finite: dict[str, torch.Tensor] = {}
        self.losses: deque[float] = deque(maxlen=_SPIKE_WINDOW)
        self.buffers = Buffers(session.model)
        self._reading: Reading | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep: a series of bad steps, and the usual losses, go on when it is resumed."""
        return {"in_a_row": self.in_a_row, "losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self.in_a_row = state["in_a_row"]
        self.losses.extend(state["losses"])

    def watch(self) -> None:
        """Watch what is trained from now on; note which of its numbers are not finite before, such as a mask of -inf:
        no update did that.

        This waits for the device, once for every parameter.
        """
        new = {name: p for name, p in self.trained.parameters.items() if name not in self.watched}
        self.watched |= new
        known = zip(new.items(), self.session.strategy.finite(list(new.values())).tolist(), strict=True)
        never_finite = {name: ~torch.isfinite(p.detach()) for (name, p), fine in known if not fine}
        self.never_finite |= never_finite
        if never_finite:
            self.session.note(
                f"Not finite from the start: numbers in {some(sorted(never_finite))}. All others are watched for "
                "updates that overflow."
            )

    def finite_parameters(self) -> dict[str, torch.Tensor]:
        """Return whether each parameter once trained is finite, apart from numbers that never were, on the device."""
        flags = dict(zip(self.watched, self.session.strategy.finite(list(self.watched.values())), strict=True))
        for name, never in self.never_finite.items():
            flags[name] = (torch.isfinite(self.watched[name].detach()) | never).all()
        return flags

    def after_step(
        self, bad: torch.Tensor | bool, loss: torch.Tensor, norms: torch.Tensor, epoch: int, position: int
    ) -> None:
        """Take note of a step, which began at a position of an epoch, and read the one before."""
        self.settle()
        step, names = self.session.state.global_step + 1, self.trained.parameters.keys()
        self._reading = Reading(step=step, epoch=epoch, position=position, bad=bad, loss=loss, norms=norms, names=names)
        self._reading.send()

    def settle(self) -> None:
        """Read the last step's numbers, and say what is wrong with them.

        Raises:
            DivergenceError: `max_skipped_steps` in a row were not finite.
        """
        reading, self._reading = self._reading, None
        if reading is None:
            return
        reading.wait()
        if not reading.bad:
            self.in_a_row = 0
            factor = self.session.args.spike_factor
            if factor is not None:
                self._look_for_spike(reading, float(reading.loss), factor)
            return
        self.in_a_row += 1
        self.meter.skipped += 1
        self._report(reading)

    def check_parameters(self) -> None:
        """See whether the parameters are still numbers; this waits for the device.

        Raises:
            DivergenceError: an update made them overflow.
        """
        wrong = [name for name, fine in self.finite_parameters().items() if not fine]
        if wrong:
            raise DivergenceError(
                f"The parameters are not finite any more in {some(wrong)}: an update up to step "
                f"{self.session.state.global_step} overflowed. They are in no checkpoint. Lower the learning rate, "
                "and start anew or resume from an earlier checkpoint."
            )

    def _report(self, reading: Reading) -> None:
        self.check_parameters()
        limit = self.session.args.max_skipped_steps
        finite = torch.isfinite(reading.norms).tolist()
        wrong = [name for name, fine in zip(reading.names, finite, strict=True) if not fine]
        loss = f"its loss is {float(reading.loss):.4g}"
        where = f"gradients are not finite in {some(wrong)}" if wrong else "the sum of its gradients is not finite"
        message = (
            f"Step {reading.step} was skipped, nothing was changed: {loss} and {where}. It read "
            f"{rows_of(self.loader, reading)}. Skipped in a row: {self.in_a_row} (max_skipped_steps={limit})."
        )
        if self.in_a_row >= limit:
            raise DivergenceError(
                f"{message} The parameters are those of the last good step. Look at these rows, lower the learning "
                "rate, or resume from an earlier checkpoint."
            )
        self.session.note(message)

    def _look_for_spike(self, reading: Reading, loss: float, factor: float) -> None:
        usual = statistics.median(self.losses) if len(self.losses) >= _SPIKE_STEPS_BEFORE else None
        if usual is not None and loss > factor * usual:
            self.session.note(
                f"The loss of step {reading.step}, {loss:.4g}, is more than {factor} times the usual {usual:.4g} "
                f"(spike_factor). It read {rows_of(self.loader, reading)}."
            )
        self.losses.append(loss)


def rows_of(loader: TrainLoader, reading: Reading) -> str:
    """Return which rows a step read, in words."""
    if not isinstance(loader, PlannedLoader):
        return f"micro-batches {int(reading.position) + 1} and on of pass {reading.epoch + 1}"
    step = loader.plan.step(reading.epoch, reading.position)
    rows = [int(row) for ranks in step for chunk in ranks for row in chunk]
    return f"rows {some([str(row) for row in rows], 16)} of the dataset (pass {reading.epoch + 1})"


def some(names: list[str], most: int = 3) -> str:
    """Return names in words, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
