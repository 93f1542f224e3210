"""Checkpoint stall: seconds the loop stands still in a save of about 190 MB, against transformers.Trainer.

`python -m benchmarks.checkpoint_stall [ROUNDS]`. The two take turns; every round trains 24 steps with a save every 6.
The stall is the time from one step's end to the next step's begin where a save is due, less the median of the others;
the slow-down is how much longer the steps take while a save is written behind them.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
import transformers
from torch import nn

import trainwright

STEPS, EVERY = 24, 6


class Wide(nn.Module):
    """16.4 million parameters; with AdamW's two moments a checkpoint of 197 MB. A step takes about 0.3 s."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(1280, 1280) for _ in range(10)))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the mean square of the output."""
        return {"loss": self.layers(x).square().mean()}


def measure(library: Any) -> dict[str, list[float]]:
    """Train with a library's Trainer; return stalls, and times of the steps after a save and of the others."""

    class Clock(library.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.ended = self.began = 0.0
            self.found: dict[str, list[float]] = {"gap": [], "save": [], "step": [], "step while writing": []}

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()
            if state.global_step:
                saved = state.global_step % EVERY == 0
                self.found["save" if saved else "gap"].append(self.began - self.ended)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()
            if state.global_step > 1:
                writing = state.global_step > EVERY and state.global_step % EVERY == 1
                self.found["step while writing" if writing else "step"].append(self.ended - self.began)

    torch.manual_seed(0)
    rows = [{"x": torch.randn(1280)} for _ in range(256)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        args = library.TrainingArguments(
            place, max_steps=STEPS, save_steps=EVERY, save_total_limit=1, per_device_train_batch_size=256, use_cpu=True,
            disable_tqdm=True, logging_strategy="no", report_to="none",
        )  # fmt: skip
        library.Trainer(Wide(), args, train_dataset=rows, callbacks=[clock]).train()
    return clock.found


def main() -> None:
    """Print a table of medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 5
    logging.getLogger("trainwright").setLevel(logging.ERROR)
    results: dict[str, list[dict[str, list[float]]]] = {"trainwright": [], "transformers": []}
    for _ in range(rounds):
        for library in (trainwright, transformers):
            results[library.__name__].append(measure(library))
    ratios = []
    for name, found in results.items():
        stalls = [statistics.median(one["save"]) - statistics.median(one["gap"]) for one in found]
        steps = [statistics.median(one["step while writing"]) / statistics.median(one["step"]) for one in found]
        ratios.append(stalls)
        step = statistics.median(found[0]["step"])
        print(
            f"{name}: stall {statistics.median(stalls):.3f} s ({min(stalls):.3f} to {max(stalls):.3f}); a step takes "
            f"{step:.3f} s, and {statistics.median(steps):.2f} of that while a save is written"
        )
    per_round = [theirs / ours for ours, theirs in zip(*ratios, strict=True)]
    print(f"ratio per round: median {statistics.median(per_round):.1f} ({min(per_round):.1f} to {max(per_round):.1f})")


if __name__ == "__main__":
    main()
