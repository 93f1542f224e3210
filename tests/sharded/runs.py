"""Runs whose state is spread over processes: `torchrun --nproc-per-node N tests/sharded/runs.py FOLDER CASE…`."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging.handlers
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny
from tests.ranks import launch
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import check, layout, writer
from trainwright.checkpoint.sharded import convert
from trainwright.errors import CheckpointError, ConfigError, Interrupted
from trainwright.parallel.layouts.layout import Layout
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.parallel.sharded import Sharded
from trainwright.parallel.tensor import TensorSharded
from trainwright.saving import model_files
from trainwright.world import current_world

STEP_ROWS = 4
BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "greater_is_better": True}
SEEN = (2, 5)  # steps before which the state is looked at


def spread(replicate: int = 1, tensor: int = 1) -> Sharded:
    """Return FSDP over all ranks, or so many copies of it, or over those that compute other rows."""
    kind = TensorSharded if tensor > 1 else Sharded
    return kind(Sharding(Layout(replicate, current_world().size // replicate // tensor, tensor)))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return getattr(tensor, "full_tensor", lambda: tensor)()


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of whole tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        # a clone: what numpy has seen of a gathered parameter could not be let go any more
        found.update(name.encode() + whole(tensor.detach()).contiguous().clone().numpy().tobytes())
    return found.hexdigest()


def digests(trainer: Trainer) -> list[str]:
    """Return those of the weights, of the optimizer's state and of the moving average."""
    states = trainer.optimizer.state_dict()["state"]
    moments = {f"{number} {key}": value for number, state in states.items() for key, value in state.items()}
    averages = trainer._session.ema.weights if trainer._session.ema is not None else {}
    return [digest(tensors) for tensors in (dict(trainer.model.named_parameters()), moments, averages)]


class Seeing(Trainer):
    """Keeps the state before some steps, the rows of each, and what it was told."""

    def note(self, message):
        self.told.append(message)

    def training_step(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step
        if step in SEEN and step not in self.states:
            self.states[step] = digests(self)
        self.streams.setdefault(step, hashlib.sha256(torch.random.get_rng_state().numpy().tobytes()).hexdigest())
        self.rows.setdefault(step, []).extend(inputs["input_ids"].tolist())
        return super().training_step(model, inputs, num_items_in_batch)


def model() -> Any:
    """Return a tied model with dropout, in float64, whose sizes four ranks do not divide, nor two its vocabulary."""
    return tiny.llama(dropout=0.1, tie_word_embeddings=True, intermediate_size=46).double()


def trained(
    place: Path, strategy: Any = None, resume: Any = None, of: Any = None, callbacks: Any = None, **changes: Any
) -> dict[str, Any]:
    layout = getattr(strategy, "sharding", Sharding()).layout
    accumulation = STEP_ROWS // (current_world().size if layout is None else layout.data_ranks)
    settings = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation, "optim": "adamw_torch",
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_steps": 6, "save_steps": 2, "logging_steps": 1,
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "ddp_timeout": 60, **changes,
    }  # fmt: skip
    args = TrainingArguments(str(place), **settings)
    Seeing.states, Seeing.rows, Seeing.streams, Seeing.told = {}, {}, {}, []
    given = {
        "train_dataset": tiny.tokens(),
        "eval_dataset": tiny.tokens(8),
        "callbacks": callbacks,
        "strategy": strategy,
    }
    trainer = Seeing(of or model(), args, **given)
    trainer.train(resume_from_checkpoint=resume)
    losses = {one["step"]: one["loss"] for one in trainer.state.log_history if "loss" in one}
    divided = 1 if layout is None else layout.tensor
    found = {"states": trainer.states, "ended": digests(trainer), "rows": trainer.rows, "tensor": divided}
    found |= {"streams": trainer.streams, "losses": losses, "told": trainer.told}
    return json.loads(json.dumps(found))  # as from another process


def stopped(place: Path, strategy: Sharded, **changes: Any) -> dict[str, Any]:
    """Train four of six steps, and go on."""
    trained(place, strategy, max_steps=4, **changes)
    return trained(place, spread(strategy.layout.replicate, strategy.layout.tensor), resume=True, **changes)


def resumed(place: Path, strategy: Any, origin: str) -> dict[str, Any]:
    """Go on from the second step of another run, in a folder of one's own."""
    return trained(place, strategy, resume=str(place.parent / origin / "checkpoint-2"), max_steps=4)


def damaged(place: Path, file: str, spoil: Callable[[Path], None]) -> dict[str, Any]:
    """Spoil a file of the newest checkpoint, and go on; note which files each rank has read for it."""
    trained(place, spread(), max_steps=4)
    if current_world().is_main:
        spoil(place / "checkpoint-4" / file)
    distributed.barrier()
    real, read = check.summed, []
    check.summed = lambda path, *more: (read.append(f"{path.parent.name}/{path.name}"), real(path, *more))[1]
    try:
        found = trained(place, spread(), resume=True, max_steps=4)
    finally:
        check.summed = real
    return {**found, "read": read}


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def full_on_one(place: Path) -> dict[str, Any]:
    """Have the disk of the second rank full at the first save."""
    real, refused = writer.write_tensors, []

    def full(tensors: Any, path: Path, *given: Any, **named: Any) -> Any:
        if current_world().rank == 1 and "checkpoint-2" in str(path) and not refused:
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(tensors, path, *given, **named)

    writer.write_tensors = full
    try:
        found = trained(place, spread())
    finally:
        writer.write_tensors = real
    return {**found, "saved": sorted(path.name for path in place.iterdir())}


def not_shared(place: Path) -> dict[str, Any]:
    """Have a folder of its own on every rank, as on disks of several machines."""
    before, own = Path.cwd(), place / str(current_world().rank)
    own.mkdir(parents=True)
    os.chdir(own)
    try:
        return trained(Path("out"), spread())
    except ConfigError as error:
        return {"told": str(error), "left": [path.name for path in own.glob("out/.checkpoint*")]}
    finally:
        os.chdir(before)


def mirrored(place: Path, strategy: Any) -> dict[str, Any]:
    """Copy checkpoints to a second place, and go on from there in a new folder: of one's own on every rank, where each
    holds the whole model, as machines have whose disks are gone."""
    mirror, before = str(place / "mirror"), Path.cwd()
    trained(place / "first", strategy(), max_steps=4, checkpoint_mirror=mirror)
    own = place / "second" / ("" if strategy is spread else str(current_world().rank))
    own.mkdir(parents=True, exist_ok=True)
    os.chdir(own)
    os.environ["LOCAL_RANK"] = "0"  # the first one of its machine
    try:
        found = trained(Path("out"), strategy(), resume=True, checkpoint_mirror=mirror)
    finally:
        os.environ["LOCAL_RANK"] = str(current_world().rank)
        os.chdir(before)
    return {**found, "copied": sorted(path.name for path in own.glob("out/checkpoint-*"))}


class Fails(TrainerCallback):
    """Fails on every rank: after the third step, in the middle of the fourth, or in a layer when it is evaluated."""

    def __init__(self, event: str) -> None:
        self.event = event

    def on_step_end(self, args, state, control, **kwargs):
        self.fail("end", state)

    def on_substep_end(self, args, state, control, **kwargs):
        self.fail("middle", state)

    def on_prediction_step(self, args, state, control, model=None, **kwargs):
        if self.event == "evaluation" and state.global_step == 3:
            model.model.layers[1].mlp.register_forward_pre_hook(lambda *given: self.fail("evaluation", state))

    def fail(self, event, state):
        if event == self.event and state.global_step == 3:
            raise ValueError("what the user wrote")


class Signalled(TrainerCallback):
    """Sends SIGTERM to the second rank alone, in an evaluation."""

    def on_prediction_step(self, args, state, control, **kwargs):
        if current_world().rank == 1:
            signal.raise_signal(signal.SIGTERM)


def signalled(place: Path) -> dict[str, Any]:
    """Stop in an evaluation, and go on."""
    told, evaluates = "", {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 1}
    try:
        trained(place, spread(), callbacks=[Signalled()], **evaluates)
    except Interrupted as stop:
        told = str(stop)
    return {**trained(place, spread(), resume=True, **evaluates), "stopped": told}


def failed(place: Path, event: str, **changes: Any) -> dict[str, Any]:
    """Fail on all ranks, and go on."""
    told = ""
    try:
        trained(place, spread(), callbacks=[Fails(event)], **changes)
    except ValueError as error:
        told = "; ".join(error.__notes__)
    saved = sorted(path.name for path in place.glob("checkpoint-*"))
    return {**trained(place, spread(), resume=True, **changes), "notes": told, "saved": saved}


def exported(place: Path, tensor: int = 1) -> dict[str, Any]:
    """Save the model alone, and then on one rank alone."""
    args = TrainingArguments(str(place / "out"), use_cpu=True, report_to="none", max_steps=1, save_strategy="no")
    trainer = Trainer(model(), args, train_dataset=tiny.tokens(), strategy=spread(tensor=tensor))
    trainer.train()
    if current_world().is_main:
        (place / "model").mkdir()
        (place / "model" / "model.safetensors").write_bytes(b"of another model")
    trainer.save_model(str(place / "model"))
    trainer.model.save_pretrained(place / "as upstream", is_main_process=trainer.is_world_process_zero())
    told, model_files._PATIENCE = [], 1.0
    for call in (
        trainer.save_model,
        trainer.model.save_pretrained,
        partial(trainer.model.save_pretrained, push_to_hub=True),
    ):
        try:
            if current_world().is_main:
                call(str(place / "model"))
        except (CheckpointError, ConfigError) as error:
            told.append(str(error))
    distributed.barrier()  # else the other one comes in time
    model_files._PATIENCE = 60.0
    trainer.save_model(str(place / "model"))
    as_accelerate = trainer.accelerator.get_state_dict(trainer.model)
    heard = logging.handlers.BufferingHandler(100)
    logging.getLogger("trainwright").addHandler(heard)
    for _ in range(2):
        torch.save(trainer.model.state_dict(), io.BytesIO())
    logging.getLogger("trainwright").removeHandler(heard)
    pickled = [one.getMessage() for one in heard.buffer]
    return {"weights": digests(trainer)[0], "told": told, "gathered": digest(as_accelerate), "pickled": pickled}


class Odd(torch.nn.Module):
    """Layers of which one is frozen, one used by no step, one has a single output, and running means."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.layers[0].requires_grad_(False)
        self.unused, self.norm, self.head = torch.nn.Linear(8, 3), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.nn.functional.one_hot(input_ids % 8, 8).to(self.head.weight)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return {"loss": (self.head(self.norm(x.flatten(0, 1))) - 1).square().mean()}


def odd() -> Odd:
    torch.manual_seed(3)
    return Odd().double()


def odd_resumed(place: Path) -> dict[str, Any]:
    """Train a model of odd parts, and go on from its fourth step."""
    straight = trained(place, spread(), of=odd(), lr_scheduler_type="cosine")
    if current_world().is_main:
        shutil.rmtree(place / "checkpoint-6")
    distributed.barrier()
    return {"straight": straight, "again": trained(place, spread(), of=odd(), lr_scheduler_type="cosine", resume=True)}


def from_torch(place: Path) -> dict[str, Any]:
    """Go on from what torch's own functions have saved of a model that ranks share, with accelerate's names."""
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    straight = trained(place / "straight", spread(), max_steps=2)
    args = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 1e-2}
    settings = {"save_strategy": "no", "use_cpu": True, "report_to": "none", "lr_scheduler_type": "constant", **args}
    trainer = Trainer(
        model(), TrainingArguments(str(place / "saved"), optim="adamw_torch", disable_tqdm=True, **settings),
        train_dataset=tiny.tokens(), strategy=spread(),
    )  # fmt: skip
    trainer.train()
    foreign = place / "foreign" / "checkpoint-2"
    if current_world().is_main:
        foreign.mkdir(parents=True)
        for name in (layout.STATE, layout.SCHEDULER, "config.json"):
            shutil.copy(place / "straight" / "checkpoint-2" / name, foreign)
    distributed.barrier()
    weights, moments = get_state_dict(trainer.model, trainer.optimizer)
    dcp.save({"model": weights}, checkpoint_id=foreign / convert.MODEL)
    dcp.save({"optimizer": moments}, checkpoint_id=foreign / convert.OPTIMIZER)
    return {**trained(place / "on", spread(), resume=str(foreign), max_steps=3), "meant": straight["ended"]}


def adapted() -> Any:
    """Return the model with adapters, which alone are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    wanted = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], lora_dropout=0.1, init_lora_weights=False)
    return get_peft_model(model(), wanted)


def adapters_resumed(place: Path, tensor: int = 1) -> dict[str, Any]:
    """Train adapters, stop after two steps and go on."""
    straight = trained(place / "straight", spread(tensor=tensor), of=adapted(), max_steps=4)
    trained(place / "stopped", spread(tensor=tensor), of=adapted(), max_steps=2)
    again = trained(place / "stopped", spread(tensor=tensor), of=adapted(), max_steps=4, resume=True)
    return {"straight": straight, "again": again}


def experts() -> Any:
    """Return a mixture of three experts with dropout, whose files hold other tensors than memory."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": tiny.VOCABULARY, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3, "attention_dropout": 0.1}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def experts_stopped(place: Path) -> dict[str, Any]:
    """Train two of four steps, and go on."""
    trained(place, spread(), of=experts(), max_steps=2)
    return trained(place, spread(), of=experts(), max_steps=4, resume=True)


CASES: dict[str, launch.Case] = {
    "experts": lambda place: trained(place, spread(), of=experts(), max_steps=4),
    "experts, stopped": experts_stopped,
    "two": lambda place: trained(place, spread()),
    "two, stopped": lambda place: stopped(place, spread()),
    "two from one": lambda place: resumed(place, spread(), "one"),
    "a flipped bit": lambda place: damaged(place, "optimizer-00002-of-00002.safetensors", flip),
    "a lost file": lambda place: damaged(place, "model-00002-of-00002.safetensors", Path.unlink),
    "a full disk": full_on_one,
    "no shared folder": not_shared,
    "exported": exported,
    "adapters": adapters_resumed,
    "odd": odd_resumed,
    "from torch": from_torch,
    "averaged": lambda place: stopped(place, spread(), ema_decay=0.9),
    "averaged, straight": lambda place: trained(place, spread(), ema_decay=0.9),
    "mirrored": lambda place: mirrored(place, spread),
    "mirrored, whole": lambda place: mirrored(place, lambda: None),
    "whole": lambda place: trained(place),
    "signalled in an evaluation": signalled,
    "failed after a step": lambda place: failed(place, "end"),
    "failed in a step": lambda place: failed(place, "middle"),
    "failed in an evaluation": lambda place: failed(place, "evaluation", eval_strategy="steps", eval_steps=3),
    "tensor": lambda place: trained(place, spread(tensor=2), **BEST),
    "adapters, divided": lambda place: adapters_resumed(place, 2),
    "exported, divided": lambda place: exported(place, 2),
    "tensor from two": lambda place: resumed(place, spread(tensor=2), "two"),
    "two from tensor": lambda place: resumed(place, spread(), "tensor"),
    "four divided": lambda place: trained(place, spread(tensor=2), ema_decay=0.9),
    "four divided, stopped": lambda place: stopped(place, spread(tensor=2), ema_decay=0.9),
    "four divided from tensor": lambda place: resumed(place, spread(tensor=2), "tensor"),
    "four from two": lambda place: resumed(place, spread(), "two"),
    "four replicated": lambda place: trained(place, spread(2)),
    "four replicated, stopped": lambda place: stopped(place, spread(2)),
    "four replicated from two": lambda place: resumed(place, spread(2), "two"),
}

if __name__ == "__main__":
    launch.run_all(CASES, sys.argv[2:])
