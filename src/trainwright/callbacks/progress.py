"""What a person sees of a run: on a terminal a table that grows above a bar, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any

from trainwright import bars
from trainwright.callbacks.base import TrainerCallback
from trainwright.callbacks.curve import Points, curve
from trainwright.callbacks.table import LogTable, is_evaluation, is_number, is_of_whole_run
from trainwright.state import UNKNOWN, TrainerControl, TrainerState

_LEAST_WIDTH, _LEAST_HEIGHT = 60, 20  # of a terminal that has room for a curve
_DRAW_SECONDS = 2.0  # between two drawings of it at logs; at an evaluation it is drawn in any case


class PrinterCallback(TrainerCallback):
    """Prints every log as one line."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print the logged numbers."""
        if state.is_world_process_zero:
            print(log_line(kwargs["logs"], state), flush=True)


class ProgressCallback(TrainerCallback):
    """The logs as a table above a progress bar, and a curve that is drawn anew as the run goes on; lines where there is
    no terminal.

    Attributes:
        bar: the bars of the terminal while a run trains, else None.
        training: the one of the run.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.training: Any = None
        self.pace = Pace()
        self.table: LogTable | None = None
        self.drawn_at = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar, on the main process of a terminal."""
        if not (state.is_world_process_zero and sys.stdout.isatty()):
            return
        total = state.max_steps if state.max_steps < UNKNOWN else None
        self.bar = bars.open_bars(sys.stdout)
        self.training = self.bar.add_task("training", total=total, completed=state.global_step)
        counts_tokens = getattr(args, "include_num_input_tokens_seen", "no") not in ("no", False)
        self.pace = Pace(counts_tokens, state)
        self.table = LogTable(self.bar.width, str(total or 0), self.pace.unit)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.training, completed=state.global_step)

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note when an evaluation begins, which is no part of the speed."""
        self.pace.pause()

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw the curve anew."""
        self.pace.go_on()
        self._draw(args, state)

    def _draw(self, args: Any, state: TrainerState) -> None:
        """Draw the curve above the bar, on a terminal that has room for it."""
        if self.bar is None or self.bar.width < _LEAST_WIDTH or self.bar.console.height < _LEAST_HEIGHT:
            return
        self.drawn_at = time.monotonic()
        line, marks, legend = self.points(args, state)
        last = state.max_steps if state.max_steps < UNKNOWN else state.global_step
        if self.bar.console.encoding.startswith("utf"):
            self.bar.above = curve(line, marks, last, self.bar.width, legend)

    def points(self, args: Any, state: TrainerState) -> tuple[Points, Points, str]:
        """Return what the curve shows: points (step, value) of training and of evaluations, and a legend."""
        watched = getattr(args, "metric_for_best_model", None) or "loss"
        name = watched if watched.startswith("eval_") else f"eval_{watched}"
        marks = [(one["step"], one[name]) for one in state.log_history if is_number(one.get(name))]
        if marks and not name.endswith("loss"):
            return [], marks, f" ● {name} "
        line = [(one["step"], one["loss"]) for one in state.log_history if is_number(one.get("loss"))]
        return line, marks, f" ⠒ loss  ● {name} " if marks else " ⠒ loss "

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the logged numbers above the bar as a row of the table, or as a line."""
        logs = kwargs["logs"]
        if not state.is_world_process_zero:
            return
        if self.bar is None or self.table is None:
            print(log_line(logs, state), flush=True)
        elif is_evaluation(logs):
            for line in self.table.evaluation(logs, state.step_of("/")):
                self.bar.say(line, "bold")
        elif not is_of_whole_run(logs):
            for line in self.table.lines(logs, {"step": state.step_of("/"), **self.pace.read(state)}):
                self.bar.say(line)
            if time.monotonic() - self.drawn_at >= _DRAW_SECONDS:
                self._draw(args, state)

    def say(self, line: str) -> None:
        """Write a line above the bar, or as it is."""
        if self.bar is not None:
            self.bar.say(line)
        else:
            print(line, flush=True)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bar."""
        self.close()

    def on_error(
        self, args: Any, state: TrainerState, control: TrainerControl, exception: BaseException, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self.bar is not None:
            bars.close_bars()
            self.bar = None


class Pace:
    """How fast a run trains, evaluations not counted, and how long it will go on.

    Args:
        counts_tokens: whether the state counts the tokens; else steps are.
        state: of the run at its beginning.
    """

    def __init__(self, counts_tokens: bool = False, state: TrainerState | None = None) -> None:
        state = state or TrainerState()
        self.counts_tokens = counts_tokens
        self.unit = "tokens/s" if counts_tokens else "steps/s"
        self.begun = self.read_at = time.monotonic()
        self.first_step = state.global_step
        self.before = self._count(state)
        self.paused_at: float | None = None
        self.paused = 0.0

    def pause(self) -> None:
        """Stop the clock."""
        if self.paused_at is None:
            self.paused_at = time.monotonic()

    def go_on(self) -> None:
        """Let the clock go on."""
        if self.paused_at is not None:
            self.paused += time.monotonic() - self.paused_at
            self.paused_at = None

    def read(self, state: TrainerState) -> dict[str, float | None]:
        """Return the speed since it was last read, and the seconds that are left at the pace of the whole run."""
        self.go_on()
        now, count = time.monotonic(), self._count(state)
        seconds, self.paused = now - self.read_at - self.paused, 0.0
        speed, self.read_at, self.before = (count - self.before) / max(seconds, 1e-9), now, count
        done = state.global_step - self.first_step
        known = done and state.max_steps < UNKNOWN
        left = (now - self.begun) / done * (state.max_steps - state.global_step) if known else None
        return {self.unit: speed, "left": left}

    def _count(self, state: TrainerState) -> float:
        return state.num_input_tokens_seen if self.counts_tokens else state.global_step


def log_line(logs: dict[str, Any], state: TrainerState) -> str:
    """Return logged numbers as one line: step, then name and value."""
    shown = [f"{name} {_short(value)}" for name, value in logs.items() if name != "total_flos"]
    return "  ".join([f"step {state.step_of('/')}", *shown])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
