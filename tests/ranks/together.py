"""Idle ranks, counts, buffers, dropout, decisions: `torchrun --nproc-per-node 2 tests/ranks/together.py FOLDER`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny
from tests.ranks import launch, tiny_rows
from trainwright import CheckpointError, EarlyStoppingCallback, Tracker, Trainer, TrainerCallback
from trainwright.saving import save
from trainwright.world import current_world

torch.set_num_threads(1)
ROWS = 10  # five batches of two: in the third step the second rank has none


class Normed(tiny_rows.Net):
    """Normalises its inputs over the batch, with running means or without."""

    def __init__(self, keeps_means: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(tiny_rows.WIDTH, track_running_stats=keeps_means).double()

    def predict(self, x, number):
        return super().predict(self.norm(x), number)


class Unused(tiny_rows.Net):
    """Has a part that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(tiny_rows.WIDTH, 1).double()


class Branched(Unused):
    """Uses one part or the other, by the first row of a batch."""

    def predict(self, x, number):
        return (self.other if number[0] in (2, 6, 8) else self.layer)(x).squeeze(-1)


class Counting(tiny_rows.Net):
    """Counts its forward passes in a buffer, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def predict(self, x, number):
        self.calls += int(self.training)
        torch.rand(3)
        return super().predict(x, number)


class Dropping(tiny_rows.Net):
    """Keeps what dropout has let through."""

    masks: list[list[int]]

    def predict(self, x, number):
        mask = nn.functional.dropout(torch.ones(16), 0.5, self.training)
        if self.training:
            self.masks.append(mask.gt(0).int().tolist())
        return super().predict(x, number) * mask.mean()


IDLE = {
    "batch norm": Normed,
    "batch norm without means": functools.partial(Normed, keeps_means=False),
    "an unused part": Unused,
    "a part that some steps use": Branched,
    "a counter": Counting,
}


def idle(place: Path, kind: str, **args: Any) -> dict[str, Any]:
    """Train where the second rank has no rows in the last step."""
    model = IDLE[kind]()
    heard: list[int] = []
    model.register_forward_hook(lambda part, given, output: heard.append(1))
    changes = {"train_sampling_strategy": "sequential", "num_train_epochs": 1, **args}
    trainer = tiny_rows.trained(place, model, train_dataset=tiny_rows.rows(ROWS), args=changes)
    return {
        "seen": trainer.seen,
        "weights": tiny_rows.weights(model),
        "heard": len(heard),
        "buffers": [buffer.tolist() for buffer in model.buffers()],
        "steps": trainer.state.global_step,
    }


def decayed(place: Path, **args: Any) -> dict[str, Any]:
    """Decay the weights: what no step uses keeps its own, as with one process."""
    return idle(place, "an unused part", optim="adamw_torch", weight_decay=0.5, max_grad_norm=1.0, **args)


def without_targets(place: Path, ranks: int = 2) -> dict[str, Any]:
    """Train where one rank's rows have no target, so that its own loss is NaN."""
    data = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(8, ragged=True)]
    for row in (2, 3, 4, 5):
        data[row]["labels"] = torch.full_like(data[row]["labels"], -100)
    args = {
        "train_sampling_strategy": "sequential",
        "gradient_accumulation_steps": 2 // ranks,
        "per_device_train_batch_size": 2,
    }
    trainer = Trainer(tiny.words(), tiny_rows.arguments(place, **args), train_dataset=data)
    trainer.train()
    return {"weights": tiny_rows.weights(trainer.model)}


def counts(place: Path, ranks: int = 2) -> dict[str, Any]:
    """Count tokens, operations and rows of texts of uneven lengths."""
    data = [{"input_ids": ids, "labels": ids} for ids in ([3] * (2 + 3 * n) for n in range(5))]
    from transformers import DataCollatorForSeq2Seq

    found = {}
    for kind in ("all", "non_padding"):
        args = tiny_rows.arguments(
            place,
            include_num_input_tokens_seen=kind,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2 // ranks,
        )
        trainer = Trainer(
            tiny.llama(), args, DataCollatorForSeq2Seq(tiny.tokenizer()), data, processing_class=tiny.tokenizer()
        )
        metrics = trainer.train().metrics
        state = trainer.state
        found[kind] = {
            "tokens": state.num_input_tokens_seen,
            "operations": state.total_flos,
            "rows": round(metrics["train_samples_per_second"] * metrics["train_runtime"]),
            "logged": [entry["num_input_tokens_seen"] for entry in state.log_history],
        }
    return found


def normed_data() -> list[dict[str, torch.Tensor]]:
    """Rows that are far apart on the two ranks."""
    data = tiny_rows.rows(16)
    for number, row in enumerate(data):
        row["x"] = row["x"] * 3 + (5 if number % 4 < 2 else -5)
    return data


def same_buffers(place: Path, **args: Any) -> dict[str, Any]:
    """Evaluate a model whose ranks have other running means; the checkpoint's give the right value."""
    held_out = tiny_rows.rows(16, seed=2)
    changes = {
        "train_sampling_strategy": "sequential", "learning_rate": 1e-4, "save_strategy": "epoch",
        "eval_strategy": "epoch", "num_train_epochs": 1, **args,
    }  # fmt: skip
    trainer = tiny_rows.trained(place, Normed(), train_dataset=normed_data(), eval_dataset=held_out, args=changes)
    said = next(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    from safetensors.torch import load_file

    saved = Normed()
    saved.load_state_dict(load_file(place / f"checkpoint-{trainer.state.global_step}" / "model.safetensors"))
    saved.eval()
    right = saved(**tiny_rows.stacked(16, seed=2))["loss"].item()
    after = trainer.evaluate()["eval_loss"]
    return {"said": said, "after": after, "right": right, "own": trainer.model.norm.running_mean.tolist()}


def dropout(place: Path) -> dict[str, Any]:
    """Train in one go, and again from the checkpoint in the middle."""
    args = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    found = {}
    for name, resumed in (("straight", None), ("again", None), ("resumed", str(place / "again" / "checkpoint-2"))):
        model = Dropping()
        model.masks = []
        given = tiny_rows.arguments(place / ("straight" if name == "straight" else "again"), **args)
        trainer = Trainer(model, given, train_dataset=tiny_rows.rows(16))
        trainer.train(resume_from_checkpoint=resumed)
        found[name] = {"masks": model.masks, "weights": tiny_rows.weights(model), "drawn": torch.rand(2).tolist()}
    return found


def old_checkpoint(place: Path) -> dict[str, Any]:
    """Go on from a checkpoint of when all ranks drew alike."""
    write = save.write_progress

    def write_as_then(run, folder, *found):
        write(run, folder, *found)
        file = folder / "trainwright.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "drawn_apart"}))

    model = Dropping()
    model.masks = []
    args = tiny_rows.arguments(place, save_strategy="steps", save_steps=2, max_steps=2, learning_rate=0.01)
    try:
        save.write_progress = write_as_then
        Trainer(model, args, train_dataset=tiny_rows.rows(16)).train()
    finally:
        save.write_progress = write
    model, told = Dropping(), []
    model.masks = []
    args = tiny_rows.arguments(place, max_steps=4, learning_rate=0.01)
    trainer = Trainer(model, args, train_dataset=tiny_rows.rows(16))
    trainer.note = told.append
    trainer.train(resume_from_checkpoint=True)
    return {"masks": model.masks, "told": told}


class Metric:
    """A metric that is another on each rank, at each evaluation."""

    def __init__(self, *values: tuple[float, ...]) -> None:
        self.left = list(values[current_world().rank])

    def __call__(self, prediction: Any) -> dict[str, float]:
        return {"acc": self.left.pop(0)} if len(self.left) > 1 else {"acc": self.left[0]}


UP, DOWN = (0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 0.4, 0.3, 0.2, 0.1)
BY_ACCURACY = {"eval_strategy": "epoch", "metric_for_best_model": "acc", "greater_is_better": True}


def decided(place: Path, callbacks: Any = (), **args: Any) -> dict[str, Any]:
    """Train by a metric that rises on rank 0 and falls on rank 1."""
    trainer = tiny_rows.trained(
        place, train_dataset=tiny_rows.rows(8), eval_dataset=tiny_rows.rows(8), compute_metrics=Metric(UP, DOWN),
        callbacks=list(callbacks), args={**BY_ACCURACY, "num_train_epochs": 5, **args},
    )  # fmt: skip
    state = trainer.state
    rates = [entry["learning_rate"] for entry in state.log_history if "learning_rate" in entry]
    said = [entry["eval_acc"] for entry in state.log_history if "eval_acc" in entry]
    return {
        "best": state.best_global_step, "steps": state.global_step, "rates": rates, "said": said,
        "weights": tiny_rows.weights(trainer.model),
    }  # fmt: skip


class OnRankOne:
    """A metric of the first rank alone; or one that fails there."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def __call__(self, prediction: Any) -> dict[str, float]:
        if current_world().rank == 0:
            return {"acc": 1.0}
        if self.fails:
            raise ValueError("no metric here")
        return {}


def metric_of_one_rank(place: Path, fails: bool) -> dict[str, Any]:
    args = tiny_rows.arguments(place)
    trainer = tiny_rows.Seeing(tiny_rows.Net(), args, eval_dataset=tiny_rows.rows(8), compute_metrics=OnRankOne(fails))
    return {"acc": trainer.evaluate()["eval_acc"]}


class Raising(TrainerCallback):
    """Raises a flag at an event of step 3, or of another one, on one rank; counts what it hears."""

    def __init__(self, event: str, flag: str, rank: int, step: int = 3) -> None:
        self.heard = {"log": [], "evaluate": [], "save": []}
        self.step = step
        if current_world().rank == rank:
            setattr(self, f"on_{event}", functools.partial(self._raise, flag, getattr(self, f"on_{event}")))

    def _raise(self, flag, then, args, state, control, **kwargs):
        if state.global_step == self.step:
            setattr(control, flag, True)
        return then(args, state, control, **kwargs)

    def on_log(self, args, state, control, **kwargs):
        self.heard["log"].append(state.global_step)

    def on_evaluate(self, args, state, control, **kwargs):
        self.heard["evaluate"].append(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        self.heard["save"].append(state.global_step)


FLAGS = [
    ("step_end", "should_training_stop", 0),
    ("step_end", "should_training_stop", 1),
    ("step_end", "should_log", 0),
    ("step_end", "should_evaluate", 1),
    ("step_end", "should_save", 1),
    ("optimizer_step", "should_save", 0),
    ("step_begin", "should_epoch_stop", 1),
    ("log", "should_save", 1),
    ("evaluate", "should_training_stop", 1),
    ("prediction_step", "should_save", 0),
    ("save", "should_training_stop", 0),
    ("save", "should_training_stop", 1),
    ("epoch_end", "should_save", 1),
    ("epoch_begin", "should_training_stop", 0),
    ("before training", "should_training_stop", 1),
]
OVERRIDES = [
    ("training_step", "should_training_stop", 0),
    ("training_step", "should_save", 1),
    ("compute_loss", "should_evaluate", 0),
    ("log", "should_training_stop", 1),
    ("prediction_step", "should_save", 1),
    ("evaluate", "should_training_stop", 0),
]


def flagged(place: Path, event: str, flag: str, rank: int, only: bool = False) -> dict[str, Any]:
    """Train ten steps with a callback that raises a flag on one rank; `only` there it is at all."""
    starts = event == "before training"
    listener = Raising("evaluate" if starts else event, flag, rank, 0 if starts else 3)
    changes: dict[str, Any] = {"num_train_epochs": 2, "logging_steps": 100, "eval_on_start": starts}
    if event == "log":
        changes["logging_steps"] = 3
    if event in ("evaluate", "prediction_step"):
        changes |= {"eval_strategy": "steps", "eval_steps": 3}
    if event == "save":
        changes |= {"save_strategy": "steps", "save_steps": 3}
    if event.startswith("epoch"):
        changes["num_train_epochs"] = 4
    count = 12 if event.startswith("epoch") else 20
    trainer = tiny_rows.trained(
        place, train_dataset=tiny_rows.rows(count), eval_dataset=tiny_rows.rows(4), args=changes,
        callbacks=[listener] if not only or current_world().rank == rank else [],
    )  # fmt: skip
    return {
        "steps": trainer.state.global_step,
        "heard": listener.heard,
        "saved": sorted(path.name for path in place.glob("checkpoint-*")),
        "weights": tiny_rows.weights(trainer.model),
    }


class Adding(TrainerCallback):
    """Adds another callback at the log of step 2, which stops the training at step 4, on one rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.trainer: Any = None

    def on_log(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.trainer.add_callback(Raising("step_end", "should_training_stop", self.rank, 4))


def added_later(place: Path, rank: int) -> dict[str, Any]:
    """Train with a callback that comes in the middle of a pass."""
    adding, data = Adding(rank), tiny_rows.rows(20)
    adding.trainer = Trainer(tiny_rows.Net(), tiny_rows.arguments(place), train_dataset=data, callbacks=[adding])
    adding.trainer.train()
    return {"steps": adding.trainer.state.global_step, "weights": tiny_rows.weights(adding.trainer.model)}


def overridden(place: Path, method: str, flag: str, rank: int, on: str = "the class") -> dict[str, Any]:
    """Train with a Trainer that raises a flag in a method after step 3, on one rank."""

    def raising(self, *given, **named):
        if self.state.global_step == 3 and current_world().rank == rank:
            setattr(self.control, flag, True)
        return getattr(Trainer, method)(self, *given, **named)

    args = tiny_rows.arguments(place, logging_steps=3, eval_strategy="steps", eval_steps=3)
    kind = type("Raising", (Trainer,), {method: raising}) if on == "the class" else Trainer
    trainer = kind(tiny_rows.Net(), args, train_dataset=tiny_rows.rows(20), eval_dataset=tiny_rows.rows(4))
    if on == "the object":
        setattr(trainer, method, functools.partial(raising, trainer))
    trainer.train()
    return {
        "steps": trainer.state.global_step,
        "evaluated": [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry],
        "saved": sorted(path.name for path in place.glob("checkpoint-*")),
        "weights": tiny_rows.weights(trainer.model),
    }


class Watching(Tracker):
    """Asks to stop after step 3; the first rank alone tells it."""

    def progress(self, step, total_steps):
        self.step = step

    def should_stop(self):
        return self.step == 3


def tracked(place: Path) -> dict[str, Any]:
    """Train with a tracker that asks to stop."""
    args = tiny_rows.arguments(place, save_strategy="steps", save_steps=100)
    trainer = Trainer(tiny_rows.Net(), args, train_dataset=tiny_rows.rows(20), callbacks=[Watching()])
    trainer.train()
    saved = sorted(path.name for path in place.glob("checkpoint-*"))
    return {"steps": trainer.state.global_step, "saved": saved, "weights": tiny_rows.weights(trainer.model)}


def loss_function(place: Path, rank: int) -> dict[str, Any]:
    """Train with a loss function that stops the training after step 3, on one rank."""

    def loss(outputs, labels, num_items_in_batch=None):
        if trainer.state.global_step == 3 and current_world().rank == rank:
            trainer.control.should_training_stop = True
        return ((outputs["logits"] - labels) ** 2).sum() / num_items_in_batch

    trainer = Trainer(
        tiny_rows.Net(), tiny_rows.arguments(place), train_dataset=tiny_rows.rows(20), compute_loss_func=loss
    )
    trainer.train()
    return {"steps": trainer.state.global_step, "weights": tiny_rows.weights(trainer.model)}


class Both(Unused):
    """Uses both parts."""

    def predict(self, x, number):
        return (self.layer(x) + self.other(x)).squeeze(-1)


class Unfreezing(TrainerCallback):
    """Trains the first part in the first step, the other one in the second, and both in the third."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        model.layer.requires_grad_(state.global_step != 1)
        model.other.requires_grad_(state.global_step != 0)


def unfrozen_later(place: Path, **args: Any) -> dict[str, Any]:
    """Train a part that was frozen when the model was spread over the ranks."""
    model = Both()
    model.other.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=tiny_rows.RATE)
    changes = {"max_steps": 3, "max_grad_norm": 0.5, "ema_decay": 0.5, "train_sampling_strategy": "sequential", **args}
    trainer = tiny_rows.trained(
        place, model, train_dataset=tiny_rows.rows(12), args=changes, callbacks=[Unfreezing()],
        optimizers=(optimizer, None),
    )  # fmt: skip
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return {"weights": tiny_rows.weights(model), "norms": norms}


class Tempered(nn.Module):
    """A loss with a parameter, which begins with another value on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.heat = nn.Parameter(torch.full((), float(current_world().rank), dtype=torch.float64))

    def forward(self, outputs, labels, num_items_in_batch=None):
        apart = (outputs["logits"] - labels) ** 2
        return (apart * torch.exp(-self.heat) + self.heat).sum() / (num_items_in_batch or len(labels))


def tempered(place: Path, resumed: bool = False) -> dict[str, Any]:
    """Train the model and the parameter of the loss, in one go or going on in the middle."""
    place.mkdir(parents=True, exist_ok=True)
    for steps in (2, 4) if resumed else (4,):
        model, loss = tiny_rows.Net(), Tempered()
        args = tiny_rows.arguments(place, max_steps=steps, save_strategy="steps", save_steps=2)
        optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=tiny_rows.RATE)
        trainer = Trainer(
            model, args, train_dataset=tiny_rows.rows(12), compute_loss_func=loss, optimizers=(optimizer, None)
        )
        trainer.train(resume_from_checkpoint=steps == 4 and resumed)
    return {"weights": tiny_rows.weights(model), "heat": loss.heat.item()}


class Saving(TrainerCallback):
    """Saves a step by itself on both ranks, and the next one on the first alone, while the other ends."""

    trainer: Trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2 and current_world().rank == 1:
            raise CheckpointError("The end of the other rank.")
        self.trainer._save_checkpoint(self.trainer.model)


def saved_by_one_rank(place: Path) -> dict[str, Any]:
    """Train until a callback saves on one rank alone."""
    save._PATIENCE, told = 1.0, ""
    args = tiny_rows.arguments(place)
    trainer = Trainer(tiny_rows.Net(), args, train_dataset=tiny_rows.rows(12), callbacks=[one := Saving()])
    one.trainer = trainer
    try:
        trainer.train()
    except CheckpointError as error:
        told = str(error)
    return {"told": told, "saved": sorted(path.name for path in place.glob("checkpoint-*"))}


class Picky:
    """A part of a checkpoint that one rank cannot go on with."""

    def state_dict(self) -> dict[str, Any]:
        return {"rank": current_world().rank}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["rank"] == 1:
            raise ValueError("not mine")


class Shared:
    """A part of a checkpoint that the first rank gives to all."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.distributed.broadcast_object_list([state])


def unrestored_on_one_rank(place: Path) -> dict[str, Any]:
    """Go on from a checkpoint with a part that fails on the second rank, before one for which the ranks meet."""
    for steps in (2, 4):
        args = tiny_rows.arguments(place, max_steps=steps, save_strategy="steps", save_steps=2)
        trainer = Trainer(tiny_rows.Net(), args, train_dataset=tiny_rows.rows(12), checkpoint_parts={"picky": Picky()})
        try:
            trainer.train(resume_from_checkpoint=steps == 4)
        except CheckpointError as error:
            return {"told": str(error), "step": steps}
    return {"told": ""}


CASES: dict[str, launch.Case] = {
    **{kind: functools.partial(idle, kind=kind) for kind in IDLE},
    "an unused part, looked for": functools.partial(idle, kind="an unused part", ddp_find_unused_parameters=True),
    "an unused part, decayed": decayed,
    "an unused part, decayed, memory watched": functools.partial(decayed, auto_find_batch_size=True),
    "no targets on one rank": without_targets,
    "a loss with a parameter": tempered,
    "a loss with a parameter, resumed": functools.partial(tempered, resumed=True),
    "unfrozen later": unfrozen_later,
    "unfrozen later, memory watched": functools.partial(unfrozen_later, auto_find_batch_size=True),
    "counts": counts,
    "buffers": same_buffers,
    "buffers of the ranks' own": functools.partial(same_buffers, ddp_broadcast_buffers=False),
    "dropout": dropout,
    "an old checkpoint": old_checkpoint,
    "a save of one rank": saved_by_one_rank,
    "a part that fails on one rank": unrestored_on_one_rank,
    "the best": functools.partial(decided, save_strategy="epoch", load_best_model_at_end=True),
    "early stopping": lambda place: decided(place, [EarlyStoppingCallback(2)]),
    "a plateau": functools.partial(
        decided, lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 0}, greater_is_better=False
    ),
    "a metric of one rank": functools.partial(metric_of_one_rank, fails=False),
    "a metric that fails on one rank": functools.partial(metric_of_one_rank, fails=True),
    **{
        " ".join(map(str, flag)): functools.partial(flagged, event=flag[0], flag=flag[1], rank=flag[2])
        for flag in FLAGS
    },
    "a callback of one rank": functools.partial(
        flagged, event="step_end", flag="should_training_stop", rank=1, only=True
    ),
    **{
        f"an override: {' '.join(map(str, flag))}": functools.partial(
            overridden, method=flag[0], flag=flag[1], rank=flag[2]
        )
        for flag in OVERRIDES
    },
    "a method of the object": functools.partial(
        overridden, method="training_step", flag="should_training_stop", rank=1, on="the object"
    ),
    "a tracker that asks to stop": tracked,
    "a callback that is added later": functools.partial(added_later, rank=1),
    "a loss function": functools.partial(loss_function, rank=1),
}

if __name__ == "__main__":
    launch.run_all(CASES, sys.argv[2:])
