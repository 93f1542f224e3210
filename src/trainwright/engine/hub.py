"""The Hugging Face hub and the model card: thin calls of huggingface_hub, only when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

_STATE_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json", "trainwright.json")


def init_hf_repo(trainer: Trainer, token: str | None = None, private: bool | None = None) -> None:
    """Make the repository that the arguments name, if it is not there."""
    if trainer.is_world_process_zero():
        from huggingface_hub import create_repo

        args = trainer.args
        name = args.hub_model_id or Path(args.output_dir or ".").resolve().name
        made = create_repo(name, token=token or args.hub_token, private=private or args.hub_private_repo, exist_ok=True)
        trainer.hub_model_id = made.repo_id


def create_model_card(trainer: Trainer, model_name: str | None = None, **details: Any) -> None:
    """Write README.md into the output folder: arguments, results and versions; nothing is looked up online.

    Args:
        model_name: title; the folder's name when not given.
        details: language, license, tags, finetuned_from, tasks, dataset_tags, dataset, dataset_args: for the header.
    """
    if not trainer.is_world_process_zero():
        return
    import torch

    folder = Path(trainer.args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "library_name": "transformers",
        "tags": ["trainwright"],
        **{k: v for k, v in details.items() if v},
    }
    lines = ["---", *(f"{name}: {_yaml(value)}" for name, value in header.items()), "---", ""]
    lines += [
        f"# {model_name or folder.resolve().name}",
        "",
        "## Results",
        "",
        "| step | metric | value |",
        "|---|---|---|",
    ]
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            if name.startswith("eval_") and isinstance(value, float):
                lines.append(f"| {entry['step']} | {name} | {value:.4g} |")
    lines += ["", "## Arguments", ""]
    chosen = type(trainer.args)(output_dir=trainer.args.output_dir).to_dict()
    lines += [f"- {k}: {v}" for k, v in trainer.args.to_dict().items() if chosen.get(k) != v]
    lines += ["", "## Versions", "", f"- torch {torch.__version__}", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def push_to_hub(
    trainer: Trainer,
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
    **kwargs: Any,
) -> Any:
    """Save model and card, and upload the output folder; return what huggingface_hub returns."""
    trainer.create_model_card(**kwargs)
    trainer.save_model(_internal_call=True)
    if not trainer.is_world_process_zero():
        return None
    from huggingface_hub import upload_folder

    trainer.init_hf_repo(token=token)
    trainer.control = trainer.callback_handler.fire("push_begin", trainer.args, trainer.state, trainer.control)
    return upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=trainer.args.output_dir,
        commit_message=commit_message,
        token=token or trainer.args.hub_token,
        run_as_future=not blocking,
        ignore_patterns=[".*", "checkpoint-*/**"],
        revision=revision or trainer.args.hub_revision,
    )


def push_checkpoint(trainer: Trainer, checkpoint: Path) -> None:
    """Upload what `hub_strategy` says after a save, in the background; left out while the last upload goes on.

    The model's files go to the top of the repository; with `checkpoint` the whole checkpoint also becomes
    `last-checkpoint`, with `all_checkpoints` every checkpoint keeps its name.
    """
    args, strategy = trainer.args, trainer.args.hub_strategy
    busy = trainer.push_in_progress is not None and not trainer.push_in_progress.done()
    if strategy == "end" or not trainer.is_world_process_zero() or (busy and not args.hub_always_push):
        return
    from huggingface_hub import upload_folder

    trainer.init_hf_repo()
    folders: dict[str | None, list[str]] = {None: [*_STATE_FILES]}
    if strategy != "every_save":
        folders["last-checkpoint" if strategy == "checkpoint" else checkpoint.name] = []
    for path_in_repo, left_out in folders.items():
        trainer.push_in_progress = upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=checkpoint,
            path_in_repo=path_in_repo,
            commit_message=f"Training in progress, step {trainer.state.global_step}",
            token=args.hub_token,
            revision=args.hub_revision,
            ignore_patterns=left_out,
            run_as_future=True,
        )


def _yaml(value: Any) -> str:
    return "[" + ", ".join(str(item) for item in value) + "]" if isinstance(value, list | tuple) else str(value)
