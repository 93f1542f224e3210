"""Arguments of what stays on disk and on the hub, and of going on from there."""

from __future__ import annotations

from dataclasses import dataclass

from trainwright.args.groups.option import option


@dataclass
class Output:
    """Where a run lives."""

    output_dir: str | None = option(None, "Folder of the run; 'trainer_output' when not given.")


@dataclass
class Saving:
    """Checkpoints."""

    save_strategy: str = option("steps", "When to save: no, steps, epoch, best.")
    save_steps: float = option(500, "Steps between checkpoints; below 1, a share of all steps.")
    save_total_limit: int | None = option(None, "Checkpoints to keep; the best one is always kept.")
    save_only_model: bool = option(False, "Save the model without optimizer, schedule and randomness.")
    checkpoint_mirror: str | None = option(
        None, "A second place for checkpoints, as an address of fsspec such as s3://bucket/run; see `reliability.md`."
    )
    save_on_each_node: bool = option(False, "Save on every machine, for folders that are not shared.")
    enable_jit_checkpoint: bool = option(False, "Without effect: a signal always saves before the run leaves.")


@dataclass
class Resuming:
    """Going on from a checkpoint."""

    resume_from_checkpoint: str | None = option(None, "For scripts: the checkpoint to go on from.")
    ignore_data_skip: bool = option(False, "On resume, start the epoch's data anew.")
    restore_callback_states_from_checkpoint: bool = option(
        True, "On resume, callbacks that keep a state go on with it."
    )


@dataclass
class Hub:
    """The Hugging Face hub; nothing is sent unless push_to_hub is set or called."""

    push_to_hub: bool = option(False, "Push the model to the hub on saving; its token is tried at construction.")
    hub_token: str | None = option(None, "Token for the hub.")
    hub_private_repo: bool | None = option(
        None, "Make the repository private; one that is there and public is refused."
    )
    hub_model_id: str | None = option(None, "Repository; the folder's name when not given.")
    hub_strategy: str = option("every_save", "What is pushed: end, every_save, checkpoint, all_checkpoints.")
    hub_always_push: bool = option(False, "Push even when the push before has not finished.")
    hub_revision: str | None = option(None, "Branch to push to.")
