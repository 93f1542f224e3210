"""Seconds that saves add to a run: 24 steps with a save each, against transformers.Trainer and runs without saves.

`python -m benchmarks.saves [ROUNDS] [EVERY]`. A save is of about 197 MB; the engines take turns, each with a save every
EVERY steps (1) and without. Added are the seconds, and the CPU seconds, of a run above the one without saves, by saves.
The folder is that of temporary files (TMPDIR), whose file system is said. transformers neither flushes its
files to the disk nor sums them; `transformers, flushed` calls fsync for each file and folder of a save, as ours do.

`python -m benchmarks.saves inside [ROUNDS]` counts the seconds and the CPU seconds of the functions of a save instead,
thread by thread; other work on the machine disturbs the CPU seconds less. It leaves out what a save costs the steps
beside it.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

import trainwright
from benchmarks.checkpoint_stall import Wide
from trainwright.checkpoint import check, folder, output, writer
from trainwright.checkpoint.model import weights
from trainwright.checkpoint.snapshot import HostCopies
from trainwright.saving import save
from trainwright.session.nonfinite import Health

STEPS = 24


class Flushed(transformers.Trainer):
    """transformers' Trainer, whose checkpoints are on the disk when a save returns."""

    def _save_checkpoint(self, *given: Any, **named: Any) -> None:
        super()._save_checkpoint(*given, **named)
        place = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        for path in (*place.rglob("*"), place, place.parent):
            folder.flush(path)


ENGINES: dict[str, tuple[Any, Any]] = {
    "trainwright": (trainwright.Trainer, trainwright.TrainingArguments),
    "transformers": (transformers.Trainer, transformers.TrainingArguments),
    "transformers, flushed": (Flushed, transformers.TrainingArguments),
}


def measure(engine: str, every: int) -> tuple[float, float]:
    """Train with a Trainer; return the seconds and the CPU seconds of `train`; 0 steps for no saves."""
    torch.manual_seed(0)
    trainer_class, arguments = ENGINES[engine]
    rows = [{"x": torch.randn(1280)} for _ in range(256)]
    with tempfile.TemporaryDirectory() as place:
        args = arguments(
            place, max_steps=STEPS, save_strategy="steps" if every else "no", save_steps=every or 1,
            save_total_limit=1, per_device_train_batch_size=256, use_cpu=True, disable_tqdm=True,
            logging_strategy="no", report_to="none",
        )  # fmt: skip
        trainer = trainer_class(Wide(), args, train_dataset=rows)
        began, computed = time.perf_counter(), time.process_time()
        trainer.train()
        return time.perf_counter() - began, time.process_time() - computed


Spent = dict[tuple[str, str], list[tuple[float, float]]]
"""Seconds and CPU seconds of every call, by thread and function."""


def watch(owner: Any, name: str, what: str, spent: Spent) -> None:
    """Have a function note its seconds; `{}` in `what` stands for the name of the file that it is given."""
    function: Callable[..., Any] = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        began, computed = time.perf_counter(), time.thread_time()
        try:
            return function(*given, **named)
        finally:
            seconds = time.perf_counter() - began, time.thread_time() - computed
            file = next((one.name for one in given if isinstance(one, Path)), "")
            thread = threading.current_thread().name.split("_")[0]
            spent[thread, what.format(file)].append(seconds)

    setattr(owner, name, call)


def inside(rounds: int) -> None:
    """Print what the functions of a save take, in every thread; those indented are part of one above."""
    spent: Spent = defaultdict(list)
    for owner, name, what in (
        (save, "write_checkpoint", "a save"),
        (HostCopies, "take", "- the copy of the state"),
        (Health, "finite_parameters", "- whether parameters are finite"),
        (save, "trees", "- states of all parts"),
        (weights, "save_all_but_tensors", "- the model's small files"),
        (save, "save_arguments", "- the arguments"),
        (save, "write_progress", "- trainwright.json"),
        (writer, "write", "a save"),
        (writer, "write_tensors", "- {}"),
        (writer, "write_objects", "- {}"),
        (writer, "write_bytes", "- {}"),
        (check, "unreadable", "- reading back"),
        (folder, "seal", "- flushing, with the manifest"),
        (folder, "publish", "- the name, and its flush"),
        (folder, "withdraw", "- renaming the one before"),
        (writer.PendingCheckpoint, "remove_withdrawn", "after it: removing the one before"),
        (output.Output, "_take", "- summing and writing pieces"),
        (transformers.Trainer, "_save_checkpoint", "a save"),
        (transformers.Trainer, "save_model", "- the model"),
        (transformers.Trainer, "_save_optimizer_and_scheduler", "- optimizer and schedule"),
    ):
        watch(owner, name, what, spent)
    titles = {"MainThread": "the loop's", "checkpoint": "the writer's", "checkpoint-pieces": "that of low priority"}
    for engine in ("trainwright", "transformers"):
        spent.clear()
        for _ in range(rounds):
            measure(engine, 1)
        print(f"\n{engine}\n\n| thread | what | calls | seconds of a save | CPU seconds |\n|---|---|---|---|---|")
        saves = rounds * STEPS
        for (thread, what), calls in sorted(spent.items(), key=lambda one: [*titles].index(one[0][0])):
            seconds, computed = (sum(values) / saves for values in zip(*calls, strict=True))
            print(f"| {titles[thread]} | {what} | {len(calls) / saves:.1f} | {seconds:.4f} | {computed:.4f} |")


def main() -> None:
    """Print a table of medians."""
    logging.getLogger("trainwright").setLevel(logging.ERROR)
    place = Path(tempfile.gettempdir()).resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    print(f"{place} is on {max(mounts, key=lambda one: len(one.mountpoint)).fstype}")
    if sys.argv[1:2] == ["inside"]:
        inside(int((sys.argv[2:] or ["2"])[0]))
        return
    given = [int(word) for word in sys.argv[1:] if word.isdigit()]
    rounds, every = (*given, 5, 1)[:2] if len(given) != 1 else (given[0], 1)
    found: dict[str, list[list[float]]] = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine, results in found.items():
            saving, plain = measure(engine, every), measure(engine, 0)
            added = [(one - other) / (STEPS // every) for one, other in zip(saving, plain, strict=True)]
            results.append([*saving, *plain, *added])
    print("| engine | run with saves | without | a save adds | in CPU seconds |\n|---|---|---|---|---|")
    for engine, results in found.items():
        wall, _, plain_wall, _, more, computed = (statistics.median(values) for values in zip(*results, strict=True))
        least, most = min(one[4] for one in results), max(one[4] for one in results)
        print(
            f"| {engine} | {wall:.2f} s | {plain_wall:.2f} s | {more:.3f} s ({least:.3f} to {most:.3f}) "
            f"| {computed:.3f} s |"
        )


if __name__ == "__main__":
    main()
