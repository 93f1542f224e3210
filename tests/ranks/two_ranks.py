"""What a rank does in the two-process tests: `torchrun --nproc-per-node 2 tests/ranks/two_ranks.py KIND FOLDER`."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.world import current_world

torch.set_num_threads(1)
ROWS = 21  # neither a whole number of steps nor the same for both ranks


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny.tokens(ROWS, ragged=True))


def run(kind: str, folder: Path, ranks: int) -> dict:
    """Train, evaluate and predict; the rows of a step are the same for any number of ranks."""
    data = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(ROWS, ragged=True)]
    seen: list[list[int]] = []

    class Watching(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append([self.state.global_step, *inputs["input_ids"][:, 0].tolist()])
            self.accumulation = self.args.gradient_accumulation_steps
            return super().training_step(model, inputs, num_items_in_batch)

    batch = 3
    held_out = [{n: row[n] for n in ("input_ids", "labels")} for row in tiny.tokens(13, ragged=True, seed=8)]
    given = {
        "map": {"train_dataset": data},
        "fused": {"train_dataset": data},
        "stream": {"train_dataset": Stream()},
        "loader": {"train_loader": DataLoader(data, batch_size=batch, shuffle=True)},
        "resume": {"train_dataset": data},
    }[kind]
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=4 // ranks if kind != "resume" else 2,
        per_device_eval_batch_size=4,
        max_steps=10,
        save_strategy="steps" if kind == "resume" else "no",
        save_steps=5,
        learning_rate=1e-3,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with args.main_process_first(desc="a cache"):
        found = (folder / "cache").exists()
        if args.process_index == 0 and kind == "loader":
            time.sleep(0.5)  # the others would be here first
        (folder / "cache").touch()
    trainer = Watching(
        {"resume": lambda: tiny.llama(dropout=0.1), "fused": lambda: tiny.gpt2().double()}.get(kind, tiny.words)(),
        args,
        eval_dataset=None if kind == "loader" else held_out,
        eval_loader=DataLoader(held_out, batch_size=5) if kind == "loader" else None,
        compute_metrics=lambda p: {"rows": float(len(p.label_ids)), "sum": float(p.label_ids.clip(0).sum())},
        **given,
    )
    trainer.train(resume_from_checkpoint=(folder / "checkpoint-5").is_dir() and kind == "resume")
    metrics = trainer.evaluate()
    prediction = trainer.predict(tiny.tokens(13, ragged=True, seed=8))
    return {
        "parameters": [p.detach().flatten().tolist() for p in trainer.model.parameters()],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "metrics": {name: metrics[name] for name in ("eval_loss", "eval_rows", "eval_sum")},
        "labels": prediction.label_ids.tolist(),
        "first_logit": prediction.predictions[:, 0, 0].tolist(),
        "seen": seen,
        "found": found,
        "accumulation": trainer.accumulation,
        "mean": mean_loss(folder, ranks) if kind == "map" else None,
        "terms": terms(folder, ranks) if kind == "map" else None,
        "buffers": buffers(folder) if kind == "map" else None,
        "options": {name: with_options(folder, ranks, **given) for name, given in OPTIONS.items()}
        if kind == "map"
        else None,
    }


OPTIONS = {  # that could take each rank's part for the whole
    "clipped": {"max_grad_norm": 0.05},
    "not clipped": {"max_grad_norm": 0.0},
    "smoothed": {"label_smoothing_factor": 0.2},
    "decayed": {"weight_decay": 0.5},
    "averaged": {"ema_decay": 0.8},
    "by a metric": {
        "lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1,
        "lr_scheduler_kwargs": {"patience": 0, "threshold": 0.5}, "metric_for_best_model": "loss",
    },
    "metrics of each batch": {"batch_eval_metrics": True, "eval_strategy": "steps", "eval_steps": 2},
    "predictions brought to the host": {"eval_accumulation_steps": 1},
    "tokens counted": {"include_num_input_tokens_seen": "non_padding"},
    "a static graph": {"ddp_static_graph": True},
    "all tokens counted": {"include_num_input_tokens_seen": "all"},
}  # fmt: skip


def with_options(folder: Path, ranks: int, **given: object) -> dict[str, object]:
    """Train two passes and evaluate; return what is trained, logged and measured."""
    args = TrainingArguments(
        str(folder / "options"), per_device_train_batch_size=2, gradient_accumulation_steps=4 // ranks,
        per_device_eval_batch_size=3, max_steps=5, learning_rate=1e-2, logging_steps=1, save_strategy="no",
        use_cpu=True, disable_tqdm=True, **given,
    )  # fmt: skip
    seen: list[int] = []

    def metrics(p: object, compute_result: bool = True) -> dict[str, float]:
        seen.append(len(p.label_ids))  # type: ignore[attr-defined]
        return {"rows": float(sum(seen)) if compute_result else 0.0}

    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(19, ragged=True)]
    trainer = Trainer(tiny.words(), args, train_dataset=rows, eval_dataset=rows[:7], compute_metrics=metrics)
    trainer.train()
    seen.clear()
    measured = trainer.evaluate()
    return {
        "parameters": [p.detach().flatten().tolist() for p in trainer.model.parameters()],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "norms": [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry],
        "rates": [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry],
        "tokens": trainer.state.num_input_tokens_seen,
        "measured": [measured["eval_loss"], measured["eval_rows"]],
    }


def mean_loss(folder: Path, ranks: int) -> list[list[float]]:
    """Train by a loss that takes the count and ignores it; return the parameters."""

    class Mean(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs)["loss"]

    args = TrainingArguments(
        str(folder), per_device_train_batch_size=3, gradient_accumulation_steps=2 // ranks, max_steps=4,
        learning_rate=1e-3, save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Mean(tiny.words(), args, train_dataset=tiny.tokens(12, ragged=True))
    trainer.train()
    return [p.detach().flatten().tolist() for p in trainer.model.parameters()]


def buffers(folder: Path) -> list[float]:
    """Train with running means where a rank may run out of memory; return the means."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), tiny.Line())
    model.forward = lambda x, labels=None: model[1](model[0](x), labels)
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=4, max_steps=3, auto_find_batch_size=True, save_strategy="no",
        remove_unused_columns=False, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, args, train_dataset=tiny.line_rows(32)).train()
    return model[0].running_mean.tolist()


def terms(folder: Path, ranks: int) -> list[dict[str, float]]:
    """Train by a dictionary of losses, of uneven micro-batches and ranks that have none; return what is logged."""

    class Terms(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            real = inputs["labels"] != -100
            self.record("first", float(inputs["input_ids"][0, 0]))
            share = outputs["loss"] * real.sum() / num_items_in_batch
            return {"loss": share, "sum": share, "mean": outputs["loss"]}

    args = TrainingArguments(
        str(folder), per_device_train_batch_size=3, gradient_accumulation_steps=4 // ranks, num_train_epochs=2,
        logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Terms(tiny.words(), args, train_dataset=tiny.tokens(15, ragged=True))
    trainer.train()
    return [
        {name: entry[name] for name in ("loss", "sum", "mean", "first")} for entry in trainer.state.log_history[:-1]
    ]


def unlike(folder: Path) -> dict:
    """Start what differs on the second rank in one thing after another; return what each start was told."""
    other = current_world().rank == 1
    told = {}
    for name in ("learning_rate", "data_seed", "rows", "width", "optimizer", "resume", "machine", "nothing"):
        model = tiny.Line(8 if name == "width" and other else 4)
        settings = {"learning_rate": 1e-3 if name == "learning_rate" and other else 1e-2}
        if name == "data_seed":
            settings["data_seed"] = 42 + other
        if name == "machine":
            settings |= {"dataloader_num_workers": int(other), "output_dir": str(folder / f"own{int(other)}")}
            settings["hub_model_id"] = f"mine/rank{int(other)}"
        args = TrainingArguments(
            **{"output_dir": str(folder), **settings}, max_steps=2, save_strategy="no", use_cpu=True, disable_tqdm=True
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2 if other else 0.1) if name == "optimizer" else None
        if name == "machine":
            group = {"params": model.parameters(), "made_by_rank": int(other)}
            optimizer = torch.optim.SGD([group], lr=0.1, dampening=math.nan)  # without momentum it is not used
        rows = tiny.line_rows(20 if name == "rows" and other else 32, 8 if name == "width" and other else 4)
        trainer = Trainer(model, args, train_dataset=rows, optimizers=(optimizer, None))
        try:
            told[name] = trainer.train(resume_from_checkpoint=name == "resume" and other).global_step
        except ConfigError as error:
            told[name] = str(error)
    return told


if __name__ == "__main__":
    place = Path(sys.argv[2])
    result = unlike(place) if sys.argv[1] == "unlike" else run(sys.argv[1], place, current_world().size)
    (place / f"rank{current_world().rank}.json").write_text(json.dumps(result))
