"""Signs that a run does not learn what it should: a sentence when one is seen, once. They are looked for where numbers
are on the host anyway: at logs, and in what is known of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainwright.args.names import METRIC_SCHEDULERS
from trainwright.callbacks.table import is_number
from trainwright.session.session import Session
from trainwright.state import UNKNOWN

_FAR = 3.0  # times the loss of the first log
_FLAT = 0.1  # of the loss
_WITHOUT_WARMUP = ("constant", *METRIC_SCHEDULERS)


@dataclass
class Symptoms:
    """Watches the logs of a run.

    Attributes:
        session: which says what is seen.
        first: the loss of the first log, be it of an earlier process.
        before: loss and norm of the gradient at the log before.
        said: what was said already.
    """

    session: Session
    first: float | None = None
    before: dict[str, Any] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def look(self, logs: dict[str, Any]) -> None:
        """Look at the numbers of a log, before they are in the history."""
        loss, before = logs.get("loss"), self.before
        if loss is None or not self.session.objective.descends:
            return
        if self.first is None:
            history = self.session.state.log_history  # as an overridden `log` left it
            self.first = next((one["loss"] for one in history if is_number(one.get("loss"))), loss)
        step = self.session.state.global_step
        if before and logs.get("grad_norm") == before["grad_norm"] == 0 and _alike(loss, before["loss"]):
            self._say(
                "gradient",
                f"The gradient is 0 at step {step} as at the log before, and the loss stays at {loss:.4g}: nothing is "
                "learned. See whether the loss depends on the parameters that are trained, and whether any are.",
            )
        if before and self.first > 0 and min(loss, before["loss"]) > _FAR * self.first:
            self._say(
                "loss",
                f"The loss, {loss:.4g} at step {step}, is more than {_FAR:g} times what it was at first, "
                f"{self.first:.4g}: the run goes the wrong way. Lower the learning rate, or warm up longer.",
            )
        self.before = {"loss": loss, "grad_norm": logs.get("grad_norm")}

    def without_targets(self) -> None:
        """Note that all labels of the step that follows are masked."""
        own, step = self.session.own_objective, self.session.state.global_step + 1
        masked = f"All labels of step {step} are masked (-100)"
        why = masked if own is None else f"{type(own).__name__}.count returned 0 for all of step {step}"
        self._say("targets", f"{why}: it learns nothing and changes nothing. Further steps like it are not named.")

    def _say(self, what: str, sentence: str) -> None:
        if what not in self.said:
            self.said.add(what)
            self.session.note(sentence)


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _FLAT * abs(other)


def check_warmup(session: Session, max_steps: int) -> None:
    """Say where a schedule that the arguments describe never reaches its learning rate."""
    args = session.args
    if "lr_scheduler" not in session.created or args.lr_scheduler_type in _WITHOUT_WARMUP or max_steps >= UNKNOWN:
        return
    warmup = args.get_warmup_steps(max_steps)
    if warmup > max_steps > 0:
        session.note(
            f"warmup_steps={warmup}, but the run has {max_steps} steps: the learning rate is still rising at the end, "
            f"and reaches {(max_steps - 1) / warmup:.1%} of learning_rate={args.learning_rate:g}. Give fewer."
        )
