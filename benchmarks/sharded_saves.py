"""Saves of a state that two processes share: what the loop waits, what each holds, writes and reads.

`torchrun --nproc-per-node N -m benchmarks.sharded_saves FOLDER [ROUNDS]`, about 900 MB of weights and moments. The two
ways take turns: ours, and one that gathers everything on the first process and writes it there, as `FULL_STATE_DICT`
does.
Memory is the anonymous memory of a process (RssAnon) at its highest, less that before the save.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import layout
from trainwright.checkpoint.sharded import slices
from trainwright.parallel.layouts.boxes import local
from trainwright.parallel.sharded import Sharded

STEPS, EVERY = 16, 4


def model() -> Any:
    """Return 74 million parameters in float32: with two moments 890 MB."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16000, hidden_size=768, intermediate_size=2048, num_hidden_layers=7, num_attention_heads=12,
        num_key_value_heads=12, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def anonymous() -> float:
    """Return the anonymous memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


class Peak:
    """The highest anonymous memory while the body runs, above that before."""

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what was freed before would hide what is taken now
        self.before, self.highest, self._over = anonymous(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.highest = max(self.highest, anonymous())

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.more = self.highest - self.before


def gathered(trainer: Trainer, place: Path) -> tuple[float, float]:
    """Gather weights and moments on the first process and write them; return seconds that all wait, and memory."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    distributed.barrier()
    began = time.perf_counter()
    with Peak() as peak:
        weights, moments = get_state_dict(trainer.model, trainer.optimizer, options=options)
        if distributed.get_rank() == 0:
            torch.save({"model": weights, "optimizer": moments}, place / "gathered.pt")
        distributed.barrier()
    return time.perf_counter() - began, peak.more


class Clock(TrainerCallback):
    """Keeps what the loop waits where a save is due, and elsewhere, and the memory from there on."""

    def __init__(self) -> None:
        self.ended, self.gaps, self.waits, self.memory = 0.0, [], [], []
        self.peak: Peak | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            waits = self.waits if state.global_step % EVERY == 0 else self.gaps
            waits.append(time.perf_counter() - self.ended)
        if self.peak is not None:
            self.peak.__exit__()
            self.memory.append(self.peak.more)
            self.peak = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == EVERY:  # later saves use the memory of the first
            self.peak = Peak().__enter__()
        self.ended = time.perf_counter()


Clock.__module__ = "trainwright.benchmarks"  # as one of ours: nobody else looks into the folder


def trained(place: Path, clock: Any, **changes: Any) -> Trainer:
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(64)]
    settings = {"max_steps": STEPS, "save_steps": EVERY, "save_total_limit": 1, **changes}
    args = TrainingArguments(
        str(place), per_device_train_batch_size=1, use_cpu=True, disable_tqdm=True, logging_strategy="no",
        report_to="none", optim="adamw_torch", **settings,
    )  # fmt: skip
    return Trainer(model(), args, train_dataset=rows, callbacks=[clock], strategy=Sharded())


def report(what: str, value: float) -> None:
    """Print a number of every process."""
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, round(value, 3))
    if distributed.get_rank() == 0:
        print(f"{what}: {everyone}", flush=True)


def report_shares(place: Path) -> None:
    """Print which share of one process' bytes each process holds, has written, and reads when it goes on."""
    read = [0]
    real = slices.File.read

    def counted(file: slices.File, name: str, inside: Any) -> torch.Tensor:
        found = real(file, name, inside)
        read[0] += found.nbytes
        return found

    slices.File.read = counted  # type: ignore[method-assign]  # to count what is asked for
    trainer = trained(place, Clock(), max_steps=STEPS + 1)
    trainer.train(resume_from_checkpoint=True)
    slices.File.read = real  # type: ignore[method-assign]  # as it was
    states = [value for one in trainer.optimizer.state.values() for value in one.values()]
    tensors = [tensor for tensor in [*trainer.model.parameters(), *states] if tensor.dim()]
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    mine = layout.Share(distributed.get_rank(), distributed.get_world_size())
    folder = layout.of_step(trainer.run_folder, STEPS + 1)
    files = [folder / layout.of_share(name, mine) for name in (layout.WEIGHTS, layout.OPTIMIZER)]
    report("held / whole", sum(local(tensor).nbytes for tensor in tensors) / whole)
    report("written / whole", sum(path.stat().st_size for path in files) / whole)
    report("read / whole", read[0] / whole)


def main() -> None:
    """Print what both ways cost, and which share of the bytes each process has."""
    place, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    waits: list[float] = []
    others: list[tuple[float, float]] = []
    for number in range(rounds):
        clock = Clock()
        trainer = trained(place / f"run{number}", clock)
        trainer.train()
        waits += [one - statistics.median(clock.gaps) for one in clock.waits]
        report(f"round {number}: waits of the loop, s", statistics.median(clock.waits) - statistics.median(clock.gaps))
        report(f"round {number}: memory of a save, MB", max(clock.memory))
        others.append(gathered(trainer, place))
        report(f"round {number}: wait where it is gathered, s", others[-1][0])
        report(f"round {number}: memory where it is gathered, MB", others[-1][1])
    report_shares(place / "run0")
    report("ours / gathered", statistics.median(waits) / statistics.median(one for one, _ in others))


if __name__ == "__main__":
    main()
