"""Resume: seconds to the first new step, against the steps done before; every row takes a millisecond to make.

`python -m benchmarks.resume`. A map-style dataset, and a stream with state; transformers.Trainer on the same for
comparison (its stream makes every row again, so it is measured at the smaller counts only).
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import trainwright

STEPS = (200, 1000, 4000)
BATCH = 8


class Line(nn.Module):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the mean square of the output."""
        return {"loss": self.layer(x).square().mean()}


class Rows(Dataset):
    """Rows that take `seconds` each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.made = 0

    def __len__(self) -> int:
        return (max(STEPS) + 10) * BATCH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.made += 1
        if self.seconds:
            time.sleep(self.seconds)
        return {"x": torch.full((4,), float(index % 7))}


class Stream(IterableDataset):
    """The same rows in order, with a state."""

    def __init__(self, seconds: float) -> None:
        self.rows, self.next = Rows(seconds), 0

    @property
    def made(self) -> int:
        """Rows made so far."""
        return self.rows.made

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while self.next < len(self.rows):
            self.next += 1
            yield self.rows[self.next - 1]
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        """Return the number of the next row."""
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.next = state["next"]


def trainer(library: Any, place: str, data: Any, steps: int, callbacks: Any = ()) -> Any:
    """Return a trainer that saves at its end."""
    args = library.TrainingArguments(
        place, max_steps=steps, save_strategy="steps", save_steps=10**6 if callbacks else steps, use_cpu=True,
        per_device_train_batch_size=BATCH, disable_tqdm=True, logging_strategy="no", report_to="none",
        lr_scheduler_type="constant", dataloader_num_workers=0,
    )  # fmt: skip
    return library.Trainer(Line(), args, train_dataset=data, callbacks=list(callbacks))


def measure(library: Any, kind: Any, steps: int) -> tuple[float, int]:
    """Return the seconds from the call of train to the end of the first new step, and the rows made for it."""

    class First(library.TrainerCallback):  # type: ignore[misc, name-defined]
        seconds, made = 0.0, 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not self.seconds:
                self.seconds, self.made = time.perf_counter() - start, data.made

    place = tempfile.mkdtemp()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer(library, place, kind(0.0), steps).train()
        data, first = kind(0.001), First()
        start = time.perf_counter()
        trainer(library, place, data, steps + 3, [first]).train(
            resume_from_checkpoint=str(Path(place) / f"checkpoint-{steps}")
        )
    shutil.rmtree(place)
    return first.seconds, first.made


def main() -> None:
    """Print a table."""
    logging.getLogger("trainwright").setLevel(logging.ERROR)
    measure(trainwright, Rows, 5)  # the first optimizer of a process imports half of torch
    print("| data | engine | " + " | ".join(f"after {steps} steps" for steps in STEPS) + " |\n|---|---|---|---|---|")
    for kind in (Rows, Stream):
        for library in (trainwright, transformers):
            counts = STEPS if kind is Rows or library is trainwright else STEPS[:2]
            found = [measure(library, kind, steps) for steps in counts]
            cells = [f"{seconds:.2f} s, {made} rows" for seconds, made in found]
            print(f"| {kind.__name__} | {library.__name__} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
