"""What each process reads of a model's files from the disk when several share it.

torchrun --nproc-per-node 2 -m benchmarks.reads: Llamas of large and of small matrices are written, put out of the page
cache, loaded and sharded. Linux alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from trainwright import Trainer, TrainingArguments
from trainwright.models.inspect import ALIKE

MODELS = {"matrices of 410 MB": (200_000, 1), "matrices of 3 MB": (8_000, 12)}  # size of the vocabulary, layers


def main() -> None:
    """Print it, of each model and process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for name, (vocabulary, layers) in MODELS.items():
        with tempfile.TemporaryDirectory(dir=Path.home()) as own:
            place = [own]
            distributed.broadcast_object_list(place)
            told: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(told, read(Path(place[0]), vocabulary, layers))
            if distributed.get_rank() == 0:
                print(f"{name}: {', '.join(f'{one:.0f}' for one in told)} MB of {size(Path(own)):.0f} MB")


def read(folder: Path, vocabulary: int, layers: int) -> float:
    """Return how many MB this process reads from the disk to have its part of a model."""
    from transformers import AutoModelForCausalLM

    if distributed.get_rank() == 0:
        write(folder, vocabulary, layers)
    distributed.barrier()
    before = physical()
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        setattr(parameter, ALIKE, True)  # as of a file's model: all have read the same
    args = TrainingArguments(str(folder / "run"), fsdp=True, use_cpu=True, report_to="none")
    Trainer(model, args)._session.strategy.place(model)
    distributed.barrier()
    return (physical() - before) / 1e6


def write(folder: Path, vocabulary: int, layers: int) -> None:
    """Write a model, and let the page cache forget it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": vocabulary, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": layers}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=8)).save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def physical() -> int:
    """Return the bytes that this process has had read from a disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def size(folder: Path) -> float:
    """Return the MB of a model's files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


if __name__ == "__main__":
    main()
