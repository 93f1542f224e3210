"""What a rank does: `torchrun --nproc-per-node 2 -m tests.reinforcement.two_ranks PLACE OUT STOP` trains every case up
to a step, or on from there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.installed import lacking
from tests.reinforcement import tiny_prompts as tiny
from tests.tasks.language.two_ranks import whole
from trainwright import TrainerCallback
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.world import current_world

CASES: dict[str, dict[str, Any]] = {
    "dapo": {"loss_type": "dapo", "num_iterations": 2, "generation_batch_size": 16, "beta": 0.1},
    "grpo": {"loss_type": "grpo", "generation_batch_size": 8, "mask_truncated_completions": True},
    "rloo": {"num_generations": 4, "generation_batch_size": 16},
}  # fmt: skip
SHARED = {"dapo": {}, "rloo": {"reduce_gradients": "micro_batch"}}
"""Cases in which the ranks share one model, with keys of the section `fsdp`."""
DIVIDED = () if lacking("divided") else ("dapo", "rloo")
"""Cases in which the ranks compute its layers together."""
STEPS = 6


class Stops(TrainerCallback):
    """Ends the training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def run(
    place: Path,
    out: Path,
    name: str,
    batch: int,
    accumulation: int,
    callback: TrainerCallback | None = None,
    fsdp: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a case in float64, in steps of 8 completions; return losses and rewards by step, and weights."""
    kwargs = {**CASES[name], "reward_functions": [f"{place / 'rewards.py'}:letters"], "temperature": 2.0}
    told = tiny.settings(
        place, trainer_kwargs=kwargs, output_dir=str(out / name), per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation, max_steps=STEPS, learning_rate=1e-2,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    if name == "rloo":
        del told["training"]["trainer_kwargs"]["loss_type"]
        told["training"]["trainer_type"] = "RLOO"
    else:
        told["training"]["trainer_kwargs"]["loss_type"] = CASES[name]["loss_type"]
    told["model"] |= {"torch_dtype_str": "float64"}
    told["data"]["validation"] = {"datasets": [{"dataset_name": str(place / "prompts.jsonl"), "sample_count": 5}]}
    told["training"] |= {"eval_strategy": "steps", "eval_steps": 3}
    if fsdp is not None:
        told["fsdp"] = {"enable_fsdp": True, **fsdp}
    file = out / f"{name}-{current_world().rank}.yaml"
    file.write_text(yaml.safe_dump(told))
    trainer = build_trainer(load_checked(file).config)
    if callback is not None:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=True if list((out / name).glob("checkpoint-*")) else None)
    weights = torch.cat([whole(value).flatten() for value in trainer.model.state_dict().values()])
    losses = {one["step"]: one["loss"] for one in trainer.state.log_history if "loss" in one}
    rewards = {one["step"]: one["reward"] for one in trainer.state.log_history if "reward" in one}
    held_out = {one["step"]: one["eval_reward"] for one in trainer.state.log_history if "eval_reward" in one}
    return {"losses": losses, "rewards": rewards, "held out": held_out, "weights": weights.tolist()}


if __name__ == "__main__":
    place, out, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    found = {name: run(place, out, name, 2, 2, Stops(stop)) for name in CASES}
    (out / "shared").mkdir(exist_ok=True)
    for name, fsdp in SHARED.items():
        found[f"{name}, shared"] = run(place, out / "shared", name, 2, 2, Stops(stop), fsdp)
    (out / "divided").mkdir(exist_ok=True)
    for name in DIVIDED:
        found[f"{name}, divided"] = run(place, out / "divided", name, 2, 4, Stops(stop), {"tensor": 2})
    (out / f"rank{current_world().rank}.json").write_text(json.dumps(found))
