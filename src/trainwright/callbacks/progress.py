"""What a person sees of a run: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from typing import Any

from trainwright.callbacks.base import TrainerCallback
from trainwright.state import UNKNOWN, TrainerControl, TrainerState


class PrinterCallback(TrainerCallback):
    """Prints every log as one line."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print the logged numbers."""
        if state.is_world_process_zero:
            print(log_line(kwargs["logs"], state), flush=True)


class ProgressCallback(TrainerCallback):
    """A progress bar for training and for evaluation, with the logs above it; lines where there is no terminal."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.training: Any = None
        self.evaluation: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar, on the main process of a terminal."""
        if state.is_world_process_zero and sys.stdout.isatty():
            self.bar = new_bar()
            self.training = self.bar.add_task(
                "training", total=state.max_steps if state.max_steps < UNKNOWN else None, completed=state.global_step
            )
            self.bar.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.training, completed=state.global_step)

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show that an evaluation goes on."""
        if self.bar is not None:
            if self.evaluation is None:
                self.evaluation = self.bar.add_task("evaluation", total=None)
            self.bar.advance(self.evaluation)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the evaluation's bar away."""
        if self.bar is not None and self.evaluation is not None:
            self.bar.remove_task(self.evaluation)
            self.evaluation = None

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the logged numbers above the bar, or as a line."""
        if state.is_world_process_zero:
            self.say(log_line(kwargs["logs"], state))

    def say(self, line: str) -> None:
        """Write a line above the bar, or as it is."""
        if self.bar is not None:
            self.bar.console.print(line, highlight=False, markup=False)
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
            self.bar.stop()
            self.bar = self.evaluation = None


def new_bar() -> Any:
    """Return a progress bar of the terminal, not yet started."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeft(),
    )
    return Progress(*columns, refresh_per_second=4)


def log_line(logs: dict[str, Any], state: TrainerState) -> str:
    """Return logged numbers as one line: step, then name and value."""
    shown = [f"{name} {_short(value)}" for name, value in logs.items() if name != "total_flos"]
    return "  ".join([f"step {state.step_of('/')}", *shown])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
