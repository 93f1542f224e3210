"""Seconds that saves add to a run: 24 steps with a save each, against transformers.Trainer and runs without saves.

`python -m benchmarks.saves [ROUNDS] [EVERY]`. A save is of about 197 MB; the engines take turns, each with a save every
EVERY steps (1) and without. Added are the seconds, and the CPU seconds, of a run above the one without saves, by saves.
The folder is that of temporary files (TMPDIR). transformers neither flushes its files to the disk nor sums them.

`python -m benchmarks.saves inside [ROUNDS]` counts the CPU seconds of the functions of a save instead, thread by
thread, which other work on the machine disturbs less: it leaves out what a save costs the steps beside it.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

import trainwright
from benchmarks.checkpoint_stall import Wide

STEPS = 24


def measure(library: Any, every: int) -> tuple[float, float]:
    """Train with a library's Trainer; return the seconds and the CPU seconds of `train`; 0 steps for no saves."""
    torch.manual_seed(0)
    rows = [{"x": torch.randn(1280)} for _ in range(256)]
    with tempfile.TemporaryDirectory() as place:
        args = library.TrainingArguments(
            place, max_steps=STEPS, save_strategy="steps" if every else "no", save_steps=every or 1,
            save_total_limit=1, per_device_train_batch_size=256, use_cpu=True, disable_tqdm=True,
            logging_strategy="no", report_to="none",
        )  # fmt: skip
        trainer = library.Trainer(Wide(), args, train_dataset=rows)
        began, computed = time.perf_counter(), time.process_time()
        trainer.train()
        return time.perf_counter() - began, time.process_time() - computed


def metered(function: Callable[..., Any], spent: list[float], thread: str = "") -> Callable[..., Any]:
    """Return a function that notes its CPU seconds, where its thread's name begins with `thread`."""

    def call(*given: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*given, **named)
        finally:
            if threading.current_thread().name.startswith(thread):
                spent.append(time.thread_time() - began)

    return call


def inside(rounds: int) -> None:
    """Print the CPU seconds of a save in every thread: the median, and the mean where a save is many calls."""
    from trainwright.checkpoint import output, writer
    from trainwright.saving import save

    spent: dict[str, list[float]] = {"the loop's": [], "the writer's": [], "that of low priority": [], "theirs": []}
    loop, behind, low, theirs = spent.values()
    save.write_checkpoint = metered(save.write_checkpoint, loop)
    writer.write = metered(writer.write, behind)
    output.Output._put = metered(output.Output._put, low, "checkpoint-pieces")  # type: ignore[method-assign]
    transformers.Trainer._save_checkpoint = metered(transformers.Trainer._save_checkpoint, theirs)
    for _ in range(rounds):
        for library in (trainwright, transformers):
            measure(library, 1)
    print("| engine | thread | CPU seconds of a save |\n|---|---|---|")
    for thread, seconds in spent.items():
        engine, of = ("transformers", "the loop's") if seconds is theirs else ("trainwright", thread)
        middle = sum(low) / len(loop) if seconds is low else statistics.median(seconds)
        print(f"| {engine} | {of} | {middle:.3f} |")


def main() -> None:
    """Print a table of medians."""
    if sys.argv[1:2] == ["inside"]:
        logging.getLogger("trainwright").setLevel(logging.ERROR)
        inside(int((sys.argv[2:] or ["2"])[0]))
        return
    given = [int(word) for word in sys.argv[1:] if word.isdigit()]
    rounds, every = (*given, 5, 1)[:2] if len(given) != 1 else (given[0], 1)
    logging.getLogger("trainwright").setLevel(logging.ERROR)
    libraries = (trainwright, transformers)
    found: dict[str, list[list[float]]] = {library.__name__: [] for library in libraries}
    for _ in range(rounds):
        for library in libraries:
            saving, plain = measure(library, every), measure(library, 0)
            added = [(one - other) / (STEPS // every) for one, other in zip(saving, plain, strict=True)]
            found[library.__name__].append([*saving, *plain, *added])
    print("| engine | run with saves | without | a save adds | in CPU seconds |\n|---|---|---|---|---|")
    for name, results in found.items():
        wall, _, plain, _, added, computed = (statistics.median(values) for values in zip(*results, strict=True))
        least, most = min(one[4] for one in results), max(one[4] for one in results)
        print(
            f"| {name} | {wall:.2f} s | {plain:.2f} s | {added:.3f} s ({least:.3f} to {most:.3f}) | {computed:.3f} s |"
        )


if __name__ == "__main__":
    main()
