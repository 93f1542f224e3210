"""Random pairs of runs: one that goes to its end, and one that is stopped and resumed. They must be the same.

`torchrun --nproc-per-node 2 tests/reliability/pairs.py FOLDER` is what two ranks do of some pairs.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import forked
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import folder, layout
from trainwright.parallel.precision import Float16
from trainwright.world import current_world

STREAMS = ("stream", "stateful stream", "sized stream")
LOADERS = ("ready loader", "own loader")
CLOSE = 1e-9  # float64: only the order of additions differs
LOGGED = 1e-6  # norms and sums of losses may be float32
FAILURE = "the run is stopped here"


class Stream(IterableDataset):
    """Rows in their order; with a length or a state, where it is asked for."""

    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data)


class Sized(Stream):
    def __len__(self) -> int:
        return len(self.data)


class Stateful(Stream):
    next = 0

    def __iter__(self) -> Any:
        while self.next < len(self.data):
            self.next += 1
            yield self.data[self.next - 1]
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class OwnLoader(DataLoader):
    """A loader of the user's own class, which is taken as it is."""


class Net(nn.Module):
    """Two layers, with dropout and a running mean between them."""

    def __init__(self, dropout: float, remembers: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.drop, self.remembers = nn.Dropout(dropout), remembers
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64), persistent=False)
        self.to(dtype)

    def forward(self, x: torch.Tensor, labels: torch.Tensor, row: Any = None, length: Any = None) -> Any:
        x, labels = x.to(self.mean.dtype), labels.to(self.mean.dtype)
        hidden = torch.tanh(self.first(x)).to(x.dtype)
        if self.training and self.remembers:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
            self.batches += 1
        out = self.last(self.drop(hidden - self.mean)).squeeze(-1).to(x.dtype)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


@dataclass(frozen=True)
class Pair:
    """What is trained, and where it is stopped.

    Attributes:
        data: kind of the training data.
        bad: a row that is not finite, or None.
        stop: "saved": the run goes on from the checkpoint of a step; else the hook of a callback that raises there.
        share: of the run's steps, after which it is stopped.
        scale: the first one of a loss scaler, where there is one; it computes in float32.
        ranks: of the run that is stopped, and of the one that goes on.
        settings: arguments.
    """

    seed: int
    data: str
    rows: int
    dropout: float
    remembers: bool
    bad: int | None
    stop: str
    share: float
    scale: float | None
    ranks: tuple[int, int]
    settings: dict[str, Any]


def drawn(seed: int, ranks: bool = False) -> Pair:
    """Return the pair of a seed."""
    chance = random.Random(seed)
    data = chance.choice(("map", "map", "group_by_length", "sequential", *STREAMS, *LOADERS))
    rows, batch = chance.randint(9, 25), chance.randint(1, 3)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": chance.randint(1, 3),
        "lr_scheduler_type": chance.choice(("constant", "linear", "cosine", "constant_with_warmup")),
        "warmup_steps": chance.choice((0, 2)),
        "optim": chance.choice(("sgd", "adamw_torch", "adamw_torch_fused", "adafactor")),
        "ema_decay": chance.choice((None, 0.9)),
        "bf16": chance.random() < 0.2,
        "logging_strategy": chance.choice(("steps", "epoch")),
        "logging_steps": chance.randint(1, 3),
        "eval_strategy": chance.choice(("no", "steps", "epoch")),
        "eval_steps": 2,
        "save_strategy": chance.choice(("steps", "steps", "epoch")),
        "save_steps": 1,
        "num_train_epochs": chance.randint(2, 3),
        "dataloader_drop_last": chance.random() < 0.2,
    }
    if settings["eval_strategy"] == settings["save_strategy"]:
        settings |= {"load_best_model_at_end": chance.random() < 0.5, "eval_steps": 1}
    if data in ("group_by_length", "sequential"):
        settings["train_sampling_strategy"] = data
    if data in STREAMS[:2] or chance.random() < 0.4:
        settings["max_steps"] = chance.randint(5, 14)
    bad = chance.randrange(rows) if chance.random() < 0.4 else None
    stop = chance.choice(("saved", "saved", "on_step_begin", "on_step_end", "on_epoch_end"))
    settings |= schedule(settings, further := random.Random(f"further {seed}"))
    scale = further.choice((1.0, 2.0**16, 2.0**124)) if not settings["bf16"] and further.random() < 0.25 else None
    pair = Pair(seed, data, rows, chance.choice((0.0, 0.3)), chance.random() < 0.3, bad, stop, chance.random(), scale,
                (1, 1), settings)  # fmt: skip
    return among_ranks(pair, chance) if ranks else pair


def schedule(settings: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return settings of a schedule of another kind, in half of the cases, and of clipping."""
    kinds: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": 2}, "polynomial": {"lr_end": 0.001, "power": 2}, "inverse_sqrt": {},
        "reduce_lr_on_plateau": {"patience": 0, "factor": 0.5},
    }  # fmt: skip
    changed: dict[str, Any] = {"max_grad_norm": chance.choice((0.0, 0.1, 1.0))}
    kind = chance.choice((None, *kinds)) if chance.random() < 0.6 else None
    if kind is None or (kind == "reduce_lr_on_plateau" and settings["eval_strategy"] == "no"):
        return changed
    return {**changed, "lr_scheduler_type": kind, "lr_scheduler_kwargs": kinds[kind]}


def among_ranks(pair: Pair, chance: random.Random) -> Pair:
    """Return a pair of which two processes run one part and one process the other; what depends on which row is whose
    is left out."""
    order = chance.choice(((1, 2), (2, 1)))
    accumulation = 2 if order == (1, 2) else chance.randint(1, 2)
    settings = {"gradient_accumulation_steps": accumulation, "bf16": False, "dataloader_drop_last": False,
                "save_strategy": "steps", "load_best_model_at_end": False, "logging_strategy": "steps",
                "logging_steps": 1}  # fmt: skip
    changed = {**pair.settings, **settings}
    return replace(pair, ranks=order, settings=changed, dropout=0.0, remembers=False, stop="saved")


def rows_of(pair: Pair, count: int) -> list[dict[str, Any]]:
    """Return rows with their numbers."""
    generator = torch.Generator().manual_seed(pair.seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    rows = [{"x": x[i], "labels": x[i].sum(), "row": i, "length": 1 + i * 7 % 11} for i in range(count)]
    if pair.bad is not None and count == pair.rows:
        rows[pair.bad]["x"] = torch.full((3,), float("nan"), dtype=torch.float64)
    return rows


def data_of(pair: Pair) -> dict[str, Any]:
    """Return the training data as the Trainer takes it."""
    rows = rows_of(pair, pair.rows)
    if pair.data in LOADERS:
        kind = DataLoader if pair.data == "ready loader" else OwnLoader
        size, drop_last = pair.settings["per_device_train_batch_size"], pair.settings["dataloader_drop_last"]
        generator = torch.Generator().manual_seed(pair.seed)
        return {"train_loader": kind(rows, batch_size=size, shuffle=True, drop_last=drop_last, generator=generator)}
    streams = {"stream": Stream, "sized stream": Sized, "stateful stream": Stateful}
    return {"train_dataset": streams[pair.data](rows) if pair.data in streams else rows}


class Watched(Trainer):
    """Keeps the rows of every step, and records a number beside their losses."""

    read: dict[str, list[int]]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        self.read.setdefault(str(self.state.global_step + 1), []).extend(inputs["row"].tolist())
        self.record("first", inputs["x"][:, 0].mean())
        return super().training_step(model, inputs, num_items_in_batch)


class Stopping(TrainerCallback):
    """Raises in a hook, once a number of steps is done."""

    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self.stop)

    def stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            raise ValueError(FAILURE)


def made(pair: Pair, place: Path, seed: int = 0, callbacks: Sequence[TrainerCallback] = ()) -> Watched:
    """Return the trainer of a pair; `seed` decides the first weights."""
    torch.manual_seed(seed)
    args = TrainingArguments(
        str(place), learning_rate=0.02, use_cpu=True, disable_tqdm=True, report_to="none", metric_for_best_model="loss",
        **pair.settings,
    )  # fmt: skip
    net = Net(pair.dropout, pair.remembers, torch.float32 if pair.ranks == (1, 1) else torch.float64)
    trainer = Watched(net, args, eval_dataset=rows_of(pair, 5), callbacks=list(callbacks), **data_of(pair))
    trainer.read = {}
    if pair.scale is not None:
        trainer.precision = precision = Float16(torch.device("cpu"))
        precision.first_scale, precision.autocast = pair.scale, nullcontext  # type: ignore[method-assign]
        precision.scaler.set_growth_interval(2)
    return trainer


def outcome(trainer: Watched) -> dict[str, Any]:
    """Return what two runs must have in common, as JSON."""
    timed = ("runtime", "per_second")
    logs = [{k: v for k, v in one.items() if not k.endswith(timed)} for one in trainer.state.log_history]
    average = layout.checkpoints(trainer.run_folder)[-1] / layout.AVERAGE
    kept = folder.load(average) if average.exists() else {}
    return {
        "rows": trainer.read,
        "logs": [one for one in logs if "train_loss" not in one],
        "train_loss": [one["train_loss"] for one in logs if "train_loss" in one],
        "weights": [p.detach().flatten().tolist() for p in trainer.model.parameters()],
        "buffers": [b.flatten().tolist() for b in trainer.model.buffers()],
        "average": [[w.flatten().tolist() for w in kept[what].values()] for what in ("weights", "last") if kept],
        "updates": kept.get("updates"),
        "best": [trainer.state.best_metric, trainer.state.best_global_step],
        "step": trainer.state.global_step,
        "epoch": trainer.state.epoch,
    }


def step_of(pair: Pair, steps: Sequence[int]) -> int:
    """Return the step after which a pair is stopped, of those that there are."""
    return steps[min(int(pair.share * len(steps)), len(steps) - 1)]


def cut(pair: Pair, straight: Path, place: Path) -> int:
    """Copy a run's folder as it was when one of its checkpoints was written, and return the step of that."""
    shutil.copytree(straight, place)
    steps = [layout.step_of(path) for path in layout.checkpoints(place)]
    chosen = step_of(pair, steps)
    for path in layout.checkpoints(place):
        if layout.step_of(path) > chosen:
            shutil.rmtree(path)
    return chosen


def fault(pair: Pair, place: Path) -> str | None:
    """Run both of a pair in this process; return in what they differ, or None."""
    straight = made(pair, place / "straight")
    straight.train()
    whole = outcome(straight)
    if pair.stop == "saved":
        stopped = cut(pair, place / "straight", place / "resumed")
    else:
        stopped = step_of(pair, range(1, whole["step"] + 1))
        failing = made(pair, place / "resumed", callbacks=[Stopping(pair.stop, stopped)])
        try:
            failing.train()
            return None  # nothing was left of the run in which to stop it
        except ValueError as error:
            if str(error) != FAILURE:
                raise
        stopped = failing.state.global_step
    resumed = made(pair, place / "resumed", seed=99)
    torch.manual_seed(77)
    resumed.train(resume_from_checkpoint=True)
    return difference(pair, whole, outcome(resumed), stopped) or twice(pair, whole["rows"])


def difference(pair: Pair, whole: dict[str, Any], resumed: dict[str, Any], stopped: int) -> str | None:
    """Return in what a resumed run differs from the one that went through, or None."""
    alike = pair.ranks == (1, 1)
    rows = {step: read for step, read in whole["rows"].items() if int(step) > stopped}
    if {step: order(read, alike) for step, read in rows.items()} != {
        step: order(read, alike) for step, read in resumed["rows"].items()
    }:
        return f"rows after step {stopped}: {rows} and {resumed['rows']}"
    for what in sorted(whole.keys() - {"rows"} if alike else {"logs", "weights", "average", "updates", "best", "step"}):
        one, other = (json.dumps(run[what], sort_keys=True) for run in (whole, resumed))  # where NaN is NaN
        if not (one == other if alike else close(whole[what], resumed[what], LOGGED if what == "logs" else CLOSE)):
            return f"{what} after step {stopped}: {one} and {other}"
    return None


def order(read: list[int], alike: bool) -> list[int]:
    return read if alike else sorted(read)


def close(one: Any, other: Any, by: float) -> bool:
    """Whether two trees of numbers are equal but for rounding. Of the passes, micro-batches are counted, which are as
    many as there are ranks."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key], by) for key in one.keys() - {"epoch"})
    if isinstance(one, list):
        return len(one) == len(other) and all(close(*two, by) for two in zip(one, other, strict=True))
    if not isinstance(one, float) or one == other:
        return one == other
    return math.isnan(one) and math.isnan(other) or abs(one - other) <= by * max(1.0, abs(one))


def twice(pair: Pair, read: dict[str, list[int]]) -> str | None:
    """Return which rows the passes of a run do not read once, or None."""
    rows = [row for step in sorted(read, key=int) for row in read[step]]
    left_out = 0
    if pair.settings["dataloader_drop_last"]:
        left_out = pair.rows % pair.settings["per_device_train_batch_size"]
    size = pair.rows - left_out
    for start in range(0, len(rows), size):
        one = rows[start : start + size]
        if len(set(one)) != len(one):
            return f"a pass reads {sorted(one)}"
    return None


def faults_among_ranks(pairs: Sequence[Pair], place: Path) -> dict[int, str]:
    """Run pairs of which two ranks do one part, all in one launch; return in what they differ, by seed."""
    whole: dict[int, Any] = {}
    resumed: dict[int, Any] = {}
    stopped: dict[int, int] = {}
    for pair in pairs:
        if pair.ranks[0] == 1:
            whole[pair.seed] = one_process(pair, place / f"{pair.seed}" / "straight")
            stopped[pair.seed] = cut(pair, place / f"{pair.seed}" / "straight", place / f"{pair.seed}" / "resumed")
    (place / "pairs.json").write_text(json.dumps([asdict(pair) for pair in pairs]))
    done = forked.ranks([__file__, place])
    if any(done.codes):
        raise RuntimeError(done.said[-5000:])
    both = [json.loads((place / f"rank{rank}.json").read_text()) for rank in range(2)]
    for pair in pairs:
        joined = both[0][str(pair.seed)]
        other = both[1][str(pair.seed)]["rows"]
        joined["rows"] = {step: [*read, *other.get(step, [])] for step, read in joined["rows"].items()}
        if pair.ranks[0] == 2:
            whole[pair.seed] = joined
            stopped[pair.seed] = cut(pair, place / f"{pair.seed}" / "straight", place / f"{pair.seed}" / "resumed")
            resumed[pair.seed] = one_process(pair, place / f"{pair.seed}" / "resumed", resume=True)
        else:
            resumed[pair.seed] = joined
    found = {p.seed: difference(p, whole[p.seed], resumed[p.seed], stopped[p.seed]) or twice(p, whole[p.seed]["rows"])
             for p in pairs}  # fmt: skip
    return {seed: told for seed, told in found.items() if told is not None}


def one_process(pair: Pair, place: Path, resume: bool = False) -> dict[str, Any]:
    """Run a pair's part; return what came of it."""
    trainer = made(pair, place, seed=99 if resume else 0)
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer)


def of_rank(place: Path) -> None:
    """Do what two ranks do of every pair, and write what came of it."""
    torch.set_num_threads(1)
    pairs = [Pair(**{**one, "ranks": tuple(one["ranks"])}) for one in json.loads((place / "pairs.json").read_text())]
    results = {}
    for pair in pairs:
        resume = pair.ranks[0] == 1
        results[pair.seed] = one_process(pair, place / f"{pair.seed}" / ("resumed" if resume else "straight"), resume)
    (place / f"rank{current_world().rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    of_rank(Path(sys.argv[1]))
