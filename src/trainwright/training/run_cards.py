"""What a run says of itself when it begins and when it is over: a card on a terminal, one line elsewhere.

Nothing here waits for the device or reads the data.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from torch import nn

from trainwright.args.training import TrainingArguments
from trainwright.callbacks import job
from trainwright.callbacks.notebook import in_notebook
from trainwright.callbacks.table import duration, number
from trainwright.checkpoint import layout
from trainwright.data.contents import Contents, contents_of
from trainwright.data.loaders.loader import PlannedLoader
from trainwright.models import inspect as models
from trainwright.optim.optimizers import state_copies
from trainwright.parallel.strategy import Strategy
from trainwright.session.run import Beginning, Run
from trainwright.session.session import Session
from trainwright.state import UNKNOWN, TrainerState
from trainwright.training.disk import bytes_in_words, checkpoint_bytes, needed

logger = logging.getLogger("trainwright")
_PARTS = {"again": "steps done before", "other": "else", "data": "waiting for data", "exchanging": "waiting for ranks"}
Facts = list[tuple[str, str]]


def begin(run: Run) -> None:
    """Say what begins, and note what is counted from here on."""
    state, timesheet = run.session.state, run.timesheet
    earlier = timesheet.told()["spent"] if timesheet.run else {}  # of the first run, the start of the process too
    run.beginning = Beginning(state.num_input_tokens_seen, state.total_flos, earlier)
    is_over = UNKNOWN != state.max_steps <= run.first_step  # which the line about the checkpoint has said
    if speaks(run.session.strategy, run.session.trial) and not is_over:
        show(
            run.session.args,
            f"Training goes on after step {run.first_step}" if run.first_step else "Training",
            facts(run),
        )


def end(run: Run) -> None:
    """Say what has come of a run that is over."""
    state = run.session.state
    if speaks(run.session.strategy, run.session.trial):
        is_whole = state.global_step >= state.max_steps or state.max_steps == UNKNOWN
        title = f"Done: {_many(state.global_step, 'step')}" if is_whole else f"Stopped at step {state.step_of()}"
        show(run.session.args, title, results(run))


def speaks(strategy: Strategy, trial: Any) -> bool:
    """Whether this process shows cards: the main one, outside of a search, where warnings are shown."""
    return strategy.is_main and trial is None and logger.isEnabledFor(logging.WARNING)


def show(args: TrainingArguments, title: str, lines: Facts) -> None:
    """Draw a card on a terminal, write its lines in a notebook; elsewhere, or without bars, write one line."""
    if sys.stderr.isatty() and not args.disable_tqdm:
        from trainwright.terminal import draw_card

        draw_card(sys.stderr, title, lines)
    elif in_notebook():
        told = "\n".join(f"{name:<8} {text}" for name, text in lines)
        print(f"{title}\n{told}", file=sys.stderr, flush=True)
    else:
        told = "; ".join(f"{name}: {', '.join(text.splitlines())}" for name, text in lines)
        print(f"{title}: {told}.", file=sys.stderr, flush=True)


def facts(run: Run) -> Facts:
    """Return what is to be said of a run that begins."""
    session = run.session
    shifted = models.shifts_labels(session.model)
    data = session.train_dataset if session.train_loader is None else getattr(session.train_loader, "dataset", None)
    contents = contents_of(data, session.data_collator, shifted)
    known = [
        ("model", _model(session.model)),
        ("data", _data(contents)),
        ("learned", _learned(contents)),
        ("steps", _steps(run)),
        ("device", _device(session)),
        ("memory", _memory(session)),
        ("disk", _disk(run)),
        ("folder", str(run.folder)),
        ("job", _job()),
        ("to stop", f"Ctrl-C, which saves first; to go on: {session.goes_on}"),
    ]
    return [(name, text) for name, text in known if text]


def results(run: Run) -> Facts:
    """Return what is to be said of a run that is over."""
    session = run.session
    spent = run.timesheet.told()["spent"]
    spent = {part: seconds - run.beginning.spent.get(part, 0.0) for part, seconds in spent.items()}
    history = session.state.log_history
    told = "reward" if any("reward" in one for one in history) else "loss"  # a policy's loss is no measure of it
    values = [one[told] for one in history if told in one]
    known = [
        (told, f"{number(values[0])} at first, {number(values[-1])} at last" if values else ""),
        ("best", _best(session.args, session.state)),
        ("time", _time(spent)),
        ("speed", _speed(run, spent)),
        ("folder", str(run.folder)),
        ("next", "\n".join(_next(run))),
    ]
    return [(name, text) for name, text in known if text]


def _model(model: nn.Module) -> str:
    inner = models.base_model(model)
    origin = str(getattr(inner, "name_or_path", "") or "")
    total, trained = (models.parameter_count(model, only) for only in (False, True))
    share = "all trained" if trained == total else f"{_count(trained)} trained ({trained / max(total, 1):.2%})"
    adapters = " with adapters" if models.holds_adapters(model) else ""
    return f"{type(inner).__name__}{f' from {origin}' if origin else ''}{adapters}, {_count(total)} parameters, {share}"


def _data(contents: Contents) -> str:
    if contents.rows is None:
        return "a stream, which is not counted"
    text = f"{contents.rows:,} rows"
    if contents.tokens is not None and contents.counted is None:
        text += f", {contents.tokens:,} tokens"
    elif contents.tokens is not None:
        text += f"; the first {contents.counted:,} have {contents.tokens:,} tokens"
    if contents.cut is not None:
        cut, total = contents.cut
        text += f"; {cut:,} of {total:,} cut off at the end ({cut / total:.1%})" if cut else "; none cut off"
    return text


def _learned(contents: Contents) -> str:
    if contents.learned is None or not contents.tokens:
        return contents.part
    first = f" of the first {contents.counted:,} rows" if contents.counted is not None else ""
    return f"{contents.learned / contents.tokens:.1%} of the tokens{first}: {contents.part}"


def _steps(run: Run) -> str:
    args, state, shards = run.session.args, run.session.state, run.session.strategy.data_shard.num_shards
    cuts = [(args.gradient_accumulation_steps, "micro-batches"), (shards, "processes")]
    rest = "".join(f" × {many} {what}" for many, what in cuts if many > 1)
    rows = getattr(run.loader.loader, "batch_size", None) or args.per_device_train_batch_size
    if isinstance(run.loader, PlannedLoader):
        rows = args.train_batch_size
    whole = rows * args.gradient_accumulation_steps * shards
    size = _many(whole, "row") + (f" ({rows}{rest})" if rest else "")
    per_pass = run.loader.steps_per_epoch
    if state.max_steps == UNKNOWN:
        return f"of {size}, until the data ends ({run.num_epochs:g} times)"
    many = f"{state.max_steps / per_pass:.3g}" if per_pass else ""
    passes = f"; {many} {'pass' if many == '1' else 'passes'} over the data" if per_pass else ""
    done = f"; {run.first_step:,} of them are done" if run.first_step else ""
    return f"{state.max_steps:,}, each of {size}{passes}{done}"


def _device(session: Session) -> str:
    device, spread = session.strategy.device, session.strategy.describe()
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else _many(torch.get_num_threads(), "thread")
    weights = next((str(p.dtype).removeprefix("torch.") for p in session.model.parameters()), "")
    lower = session.precision.dtype
    computes = f", computes in {str(lower).removeprefix('torch.')}" if lower is not None else ""
    return f"{device.type} ({kind}){f' × {spread}' if spread else ''}, {weights} weights{computes}"


def _memory(session: Session) -> str:
    """Return what is certainly needed: what a step computes comes on top, and differs from batch to batch."""
    weights, trained, copies = _sizes(session.model, session.optimizer)
    reference = getattr(session.objective, "reference", None)  # of preferences
    weights += sum(p.numel() * p.element_size() for p in reference.parameters()) if reference is not None else 0
    parts = {"weights": weights, "gradients": trained, "optimizer": trained * copies}
    each = ", ".join(f"{name} {bytes_in_words(size)}" for name, size in parts.items())
    device = session.strategy.device
    room = f" of {torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} GB" if device.type == "cuda" else ""
    return f"{bytes_in_words(sum(parts.values()))}{room}: {each}; what a step computes comes on top"


def _disk(run: Run) -> str:
    """Return what the run's checkpoints need."""
    session, state = run.session, run.session.state
    weights, trained, copies = _sizes(session.model, session.optimizer)
    average = 0 if session.args.ema_decay is None else trained
    adapters, only_model = models.holds_adapters(session.model), session.args.save_only_model
    size = checkpoint_bytes(weights, trained, copies, adapters=adapters, only_model=only_model, average=average)
    steps = None if state.max_steps == UNKNOWN else state.max_steps
    return str(needed(session.args, run.folder, size, steps, run.num_epochs))


def _sizes(model: nn.Module, optimizer: Any) -> tuple[int, int, float]:
    """Return (bytes of the weights, of what is trained, copies of that which the optimizer keeps)."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    copies = state_copies(type(optimizer).__name__, getattr(optimizer, "defaults", {}))
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained), copies


def _job() -> str:
    name = job.name()
    return f"{name}; to watch it: trainwright ui" if name else ""


def _best(args: TrainingArguments, state: TrainerState) -> str:
    """Return the best value of the watched metric, or else of the evaluation loss, and where it was reached; what was
    measured before anything was trained is no result."""
    watched = args.metric_for_best_model or "loss"
    name = watched if watched.startswith("eval_") else f"eval_{watched}"
    trained = [one for one in state.log_history if one["step"] > 0]
    found = [(one[name], one["step"]) for one in trained if isinstance(one.get(name), int | float)]
    found = [(value, step) for value, step in found if value == value]  # without NaN
    if not found:
        return ""
    value, step = (max if args.greater_is_better else min)(found, key=lambda one: one[0])
    is_kept = state.best_model_checkpoint and state.best_global_step == step
    place = f", in {state.best_model_checkpoint}" if is_kept else ""
    return f"{name} {number(value)} at step {step}{place}"


def _next(run: Run) -> list[str]:
    """Return commands that go on from here: those of the command line, else how the weights are had from Python."""
    session, name = run.session, job.name()
    about_job = [f"trainwright jobs show {name}"] if name else []
    if session.commands:
        return [*session.commands, *about_job]
    if run.saved_step <= 0:
        return ["save_model() of the Trainer, for nothing is saved yet", *about_job]
    kind, model = type(session.model).__name__.removeprefix("FSDP"), session.model
    if not models.is_pretrained(model) or models.holds_adapters(model) or run.save_error is not None:
        return about_job
    return [f"{kind}.from_pretrained({str(layout.of_step(run.folder, run.saved_step))!r})", *about_job]


def _time(spent: dict[str, float]) -> str:
    total = sum(spent.values())
    shares = sorted(((seconds / max(total, 1e-9), part) for part, seconds in spent.items()), reverse=True)
    parts = [f"{_PARTS.get(part, part)} {share:.0%}" for share, part in shares if share >= 0.005]
    return f"{duration(total)}, of which {', '.join(parts)}"


def _speed(run: Run, spent: dict[str, float]) -> str:
    session, begun = run.session, run.beginning
    steps = session.state.global_step - run.first_step
    seconds = sum(spent[part] for part in ("training", "again", "data", "exchanging"))
    if not steps or seconds <= 0:
        return ""
    tokens, what = session.state.num_input_tokens_seen - begun.tokens, "tokens"
    if not tokens and session.non_embedding_parameters:
        tokens = round((session.state.total_flos - begun.flos) / (6 * session.non_embedding_parameters))
        what = "tokens (padding counted)"
    if tokens:
        share = run.throughput.of_run(seconds)
        reached = "" if share is None else f", {share:.1%} of what the device could compute (MFU)"
        return f"{tokens / seconds:,.0f} {what} per second of training, {number(seconds / steps)} s a step{reached}"
    return f"{number(steps / seconds)} steps per second of training"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _count(many: int) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if many >= size:
            return f"{many / size:.3g} {name}"
    return f"{many:,}"
