"""Runs whose state is spread over processes: `torchrun --nproc-per-node N tests/sharded/ranks.py FOLDER CASE…`."""

from __future__ import annotations

import hashlib
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny
from trainwright import Trainer, TrainingArguments
from trainwright.parallel.ddp import DataParallel


class Spread(DataParallel):
    """FSDP2, or with `replicate` HSDP."""

    shards_state = True

    def __init__(self, replicate=1):
        self.replicate = replicate

    def place(self, model):
        if hasattr(model, "set_requires_gradient_sync"):
            return model
        shape, names = (self.world.size,), ("shard",)
        if self.replicate > 1:
            shape, names = (self.replicate, self.world.size // self.replicate), ("replicate", "shard")
        self.mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layer in model.model.layers:
            fully_shard(layer, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        return model

    def prepare(self, model, recomputes=False):
        return model

    def accumulate(self, model, last):
        model.set_requires_gradient_sync(last)
        return nullcontext()

    def needs_zero_weight_step(self, last):
        return True

    def finish_gradients(self, parameters):
        pass

    def norms(self, tensors, order=2.0):
        held = [part if (part := tensor.to_local()).numel() else part.new_zeros(1) for tensor in tensors]
        parts = torch.stack(torch._foreach_norm(held, order))
        group = self.mesh.get_group("shard")
        if order == math.inf:
            distributed.all_reduce(parts, distributed.ReduceOp.MAX, group=group)
            return parts
        squares = parts**2
        distributed.all_reduce(squares, group=group)
        return squares.sqrt()


def whole(tensor):
    return getattr(tensor, "full_tensor", lambda: tensor)()


def digest(trainer: Trainer) -> str:
    """Return the SHA-256 of weights and moments, whole."""
    found = hashlib.sha256()
    numbers = trainer.optimizer.state_dict()["state"]
    tensors = {name: p.detach() for name, p in trainer.model.named_parameters()}
    tensors |= {f"{n} {key}": t for n, one in numbers.items() for key, t in one.items()}
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + whole(tensor).contiguous().numpy().tobytes())
    return found.hexdigest()


class Seeing(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step == self.run.first_step and not hasattr(self, "began"):
            self.began = digest(self)
        self.seen.append((self.state.global_step, inputs["input_ids"][:, 0].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)


def trained(place: Path, strategy: Any = None, model: Any = None, resume: Any = None, **changes: Any) -> dict[str, Any]:
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    ranks = int(__import__("os").environ.get("WORLD_SIZE", 1))
    settings = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4 // ranks, "optim": "adamw_torch",
        "learning_rate": 1e-2, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "ddp_timeout": 60, "max_grad_norm": 0.5, **changes,
    }  # fmt: skip
    model = model or tiny.llama(tie_word_embeddings=True).double()
    trainer = Seeing(model, TrainingArguments(str(place), **settings), train_dataset=tiny.tokens(), strategy=strategy)
    trainer.seen = []
    trainer.train(resume_from_checkpoint=resume)
    return {
        "began": getattr(trainer, "began", None),
        "digest": digest(trainer),
        "seen": trainer.seen,
        "losses": [one["loss"] for one in trainer.state.log_history if "loss" in one],
    }


if __name__ == "__main__":
    import json

    place, out = Path(sys.argv[1]), Path(sys.argv[2])
    for spec in sys.argv[3:]:
        given = json.loads(spec)
        replicate = given.pop("replicate", None)
        name = given.pop("name")
        res = trained(place, None if replicate is None else Spread(replicate), **given)
        rank = int(__import__("os").environ.get("RANK", 0))
        out.mkdir(exist_ok=True)
        (out / f"{name}-{rank}.json").write_text(json.dumps(res))
        if rank == 0:
            print(
                name,
                res["began"] and res["began"][:10],
                res["digest"][:10],
                res["seen"][-1],
                res["losses"][-1],
                flush=True,
            )
