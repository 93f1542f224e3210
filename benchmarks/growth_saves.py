"""How the cost of saves grows: with the checkpoints in a folder, and with what the run has logged."""

from __future__ import annotations

import importlib
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import Line, Measure


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * x.mean()}


def _trained(library: Any, folder: Path, callback: Any, **changes: Any) -> None:
    """Train the model of one parameter with a library's Trainer."""
    logging.disable(logging.WARNING)
    args = library.TrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, report_to="none", logging_strategy="no", **changes
    )
    rows = [{"x": torch.zeros(1)}] * 8
    library.Trainer(_Model(), args, train_dataset=rows, callbacks=[callback]).train()


def checkpoints(library_name: str) -> Measure:
    """Return what measures the milliseconds of a step with its save, in a run that keeps so many checkpoints."""

    def run(count: int, folder: Path) -> float:
        library = importlib.import_module(library_name)

        class Clock(library.TrainerCallback):  # type: ignore[misc, name-defined]
            ends: list[float] = []

            def on_step_end(self, *given: Any, **named: Any) -> None:
                self.ends.append(time.process_time())

        Clock.ends = []
        steps = count + 20
        _trained(library, folder, Clock(), max_steps=steps, save_steps=1, save_total_limit=count)
        last = Clock.ends[-20:]
        return statistics.median(after - before for before, after in zip(last, last[1:], strict=False)) * 1e3

    return run


def history(library_name: str) -> Measure:
    """Return what measures the milliseconds for which the second save of a run that has logged so much stops the loop.

    The first makes text of what is put into the history here at once, and a run one by one.
    """

    def run(entries: int, folder: Path) -> float:
        library = importlib.import_module(library_name)

        class Clock(library.TrainerCallback):  # type: ignore[misc, name-defined]
            ended, stops = 0.0, {}

            def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
                made = ({"loss": 1 / n, "grad_norm": n / 3, "epoch": n / 7, "step": n} for n in range(1, entries + 1))
                state.log_history.extend(made)

            def on_step_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
                self.stops[state.global_step] = time.perf_counter() - self.ended

            def on_step_end(self, *given: Any, **named: Any) -> None:
                time.sleep(0.05)  # so that the save before is written
                self.ended = time.perf_counter()

        Clock.stops = {}
        _trained(library, folder, Clock(), max_steps=31, save_steps=10)
        return statistics.median(Clock.stops[step] for step in (20, 30)) * 1e3

    return run


_ENGINES = ("trainwright", "transformers")
LINES = [
    Line("a save beside other checkpoints", "checkpoints that are kept", (5, 50, 500),
         {name: checkpoints(name) for name in _ENGINES}, "ms"),
    Line("the stop of the loop in a save", "entries logged before", (1_000, 10_000, 100_000),
         {name: history(name) for name in _ENGINES}, "ms"),
]  # fmt: skip
