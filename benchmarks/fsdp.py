"""Training a model that processes share, beside transformers' Trainer with its FSDP: steps per second, memory, losses.

`torchrun --nproc-per-node 2 -m benchmarks.fsdp ours|theirs FOLDER`, once for each; FOLDER has a line of JSON for both.
accelerate shards on no CPU by itself: for the comparison it is told that this is a place for FSDP (version 2).
Memory is the anonymous memory of the fullest process (RssAnon) at its highest in steps, above that before the Trainer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks.sharded_saves import Peak

STEPS, WARM, ROWS, WIDTH, VOCABULARY = 16, 4, 2, 128, 8192
FSDP = {
    "theirs": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "reshard_after_forward": True,
               "cpu_ram_efficient_loading": False},
    "ours": {},
}  # fmt: skip


def model() -> Any:
    """Return 8 million parameters in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows() -> list[dict[str, Any]]:
    """Return rows of equal length, so that both weigh micro-batches alike."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (STEPS * ROWS * 2, WIDTH), generator=generator)
    return [{"input_ids": one, "labels": one.clone()} for one in ids]


def let_accelerate_shard_here() -> None:
    """Have accelerate take CPUs for a place where models are sharded."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def begun(state: Any, *given: Any, **named: Any) -> None:
        begin(state, *given, **named)
        if named.get("fsdp_plugin") is not None:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, named["fsdp_plugin"]

    AcceleratorState.__init__ = begun


def main() -> None:
    """Train with one of the two, and write what it took."""
    name, place = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if name == "theirs":
        let_accelerate_shard_here()
        import transformers as library
    else:
        import trainwright as library  # type: ignore[no-redef]

    class Clock(library.TrainerCallback):
        """Notes when every step ended."""

        ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.ends.append(time.perf_counter())

    with Peak() as peak:
        args = library.TrainingArguments(
            str(place / name), per_device_train_batch_size=ROWS, max_steps=STEPS, learning_rate=1e-3, logging_steps=1,
            lr_scheduler_type="constant", save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            optim="adamw_torch", max_grad_norm=1.0, fsdp=True, fsdp_config=FSDP[name],
        )  # fmt: skip
        trainer = library.Trainer(model(), args, train_dataset=rows(), callbacks=[Clock()])
        trainer.train()
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in trainer.model.parameters())
    told: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, (peak.more, held / sum(p.numel() for p in trainer.model.parameters())))
    if distributed.get_rank() == 0:
        found = {
            "engine": name,
            "steps per second": (STEPS - WARM) / (Clock.ends[-1] - Clock.ends[WARM - 1]) if Clock.ends else None,
            "memory, MB": max(memory for memory, _ in told),
            "held": max(share for _, share in told),
            "losses": losses,
        }
        with (place / "fsdp.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
