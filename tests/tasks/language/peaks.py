"""What a rank does: `torchrun --nproc-per-node 2 -m tests.tasks.language.peaks FILE OUT` trains a file in some layouts,
and notes the most bytes of tensors that lived at a time, and those that FSDP2 and divided layers sent, in the last
step."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.installed import lacking
from trainwright import TrainerCallback
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.world import current_world

FSDP = ["fsdp.enable_fsdp=true"]
TWICE, AGAIN = "training.gradient_accumulation_steps=2", "training.enable_gradient_checkpointing=true"
CASES = {
    "ddp, recomputed": [AGAIN],
    "fsdp, two micro-batches": [*FSDP, TWICE],
    "fsdp, reduced in each, recomputed": [*FSDP, TWICE, AGAIN, "fsdp.reduce_gradients=micro_batch"],
    "divided, two micro-batches": [*FSDP, TWICE, "fsdp.tensor=2"],
    "divided, recomputed": [*FSDP, AGAIN, "fsdp.tensor=2"],
}
CASES = {name: words for name, words in CASES.items() if not lacking(name)}
SENDS = {  # what two ranks send of the largest tensor that a collective is given, by the beginning of its name
    "c10d._allgather_base_": 1 / 2, "c10d._reduce_scatter_base_": 1 / 2, "c10d.allreduce_": 1,
    "_c10d_functional.all_reduce": 1, "_c10d_functional.all_gather_into_tensor": 1,
}  # fmt: skip


class Living(TorchDispatchMode):
    """Adds up the bytes of all storages that live after every operation, and what collectives send."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Any] = {}
        self.peak = 0
        self.sent = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        share = SENDS.get(str(func).rpartition(".")[0])
        if share is not None:
            self.sent += share * max(one.nbytes for one in tree_iter(args) if isinstance(one, torch.Tensor))
        for one in tree_iter((args, out)):
            if isinstance(one, torch.Tensor):
                own = getattr(one, "_local_tensor", one)
                if type(own) in (torch.Tensor, torch.nn.Parameter) and own.device.type == "cpu":
                    self.note(own.untyped_storage())
        living = [storage() for storage in list(self.storages.values())]
        self.peak = max(self.peak, sum(storage.nbytes() for storage in living if storage is not None))
        return out

    def note(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self.storages:
            self.storages[place] = weakref.ref(storage, lambda _: self.storages.pop(place, None))


class Fresh(TrainerCallback):
    def __init__(self, living: Living) -> None:
        self.living = living

    def on_step_begin(self, args, state, control, **kwargs):
        self.living.peak, self.living.sent = 0, 0.0


def main(file: Path, out: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for name, words in CASES.items():
        config = load_checked(file, [*words, f"training.output_dir={out / name.replace(' ', '_')}"]).config
        with Living() as living:
            trainer = build_trainer(config)
            trainer.add_callback(Fresh(living))
            trainer.train()
        found[name] = living.peak, living.sent
        del trainer
    (out / f"rank{current_world().rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
