"""Writing a run's checkpoints, and the state that makes them resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainwright import randomness
from trainwright.args.training import saved_arguments
from trainwright.checkpoint import folder, weights
from trainwright.engine import hub
from trainwright.engine.run import Run

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

RUN_FILE = "trainwright.json"


def save_checkpoint(run: Run) -> None:
    """Write `checkpoint-<step>` whole, delete those beyond the limit, and tell the callbacks."""
    trainer = run.trainer
    args, state, output = trainer.args, trainer.state, trainer.run_folder
    place = output / f"{folder.PREFIX}-{state.global_step}"
    streams = trainer.strategy.gather({**randomness.states(), **run.loader.state_dict()})
    if state.best_global_step == state.global_step:
        state.best_model_checkpoint = str(place)
    state.stateful_callbacks = callback_states(trainer)
    if args.should_save:
        with folder.new_checkpoint(place) as temporary:
            trainer.save_model(str(temporary), _internal_call=True)
            write_state(run, temporary, streams)
        for old in folder.rotate(output, args.save_total_limit, state.best_model_checkpoint):
            trainer.note(f"Deleted {old.name} (save_total_limit={args.save_total_limit}).")
    trainer.strategy.barrier()
    if args.push_to_hub:
        hub.push_checkpoint(trainer, place)
    run.fire("save")


def write_state(run: Run, place: Path, streams: list[dict[str, Any]]) -> None:
    """Write everything but the weights: progress, data position, arguments, optimizer, schedule, randomness."""
    trainer = run.trainer
    trainer.state.save_to_json(place / "trainer_state.json")
    about = {
        "epoch": run.epoch,
        "position": run.position,
        "data": run.loader.describe(),
        "ranks": trainer.strategy.world.size,
        "arguments": saved_arguments(trainer.args),
        "versions": {"torch": torch.__version__},
    }
    (place / RUN_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if trainer.args.save_only_model:
        return
    torch.save(trainer.optimizer.state_dict(), place / "optimizer.pt")
    torch.save(trainer.lr_scheduler.state_dict(), place / "scheduler.pt")
    if scaler := trainer.precision.state_dict():
        torch.save(scaler, place / "scaler.pt")
    for rank, states in enumerate(streams):
        torch.save(states, place / randomness.file_name(rank, len(streams)))


def save_model(trainer: Trainer, output_dir: str | None) -> None:
    """Write the weights, configuration and tokenizer, on the process that writes."""
    if trainer.args.should_save:
        place = Path(output_dir if output_dir is not None else trainer.args.output_dir or ".")
        weights.save_model(trainer.model, place, trainer.processing_class)


def callback_states(trainer: Trainer) -> dict[str, Any]:
    """Return the state of every callback that keeps one, by class name, as transformers lays it out."""
    states: dict[str, Any] = {}
    for owner in [*trainer.callback_handler.callbacks, trainer.control]:
        state = getattr(owner, "state", None)
        if callable(state):
            name, known = type(owner).__name__, states.get(type(owner).__name__)
            states[name] = state() if known is None else [*(known if isinstance(known, list) else [known]), state()]
    return states
