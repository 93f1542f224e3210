"""A model made ready for others: its weights in shards and in a number format, its tokenizer, and a card."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainwright.checkpoint.model import adapters
from trainwright.errors import CheckpointError, ConfigError
from trainwright.models.inspect import is_adapter
from trainwright.saving.hub import repository
from trainwright.saving.model_card import CARD
from trainwright.trained.folders import Trained, find
from trainwright.trained.loading import adapter_as_used, load, tokenizer_of
from trainwright.trained.making.card import Shown, card
from trainwright.trained.making.merging import Agreement, agreement_of, logits, probe
from trainwright.trained.making.places import place_for, written

_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """A model that was exported.

    Attributes:
        folder: where it lies.
        files: how many files of weights there are.
        size: their bytes together.
        agreement: with what was exported, read again; None of an adapter, whose files are only copied.
    """

    folder: Path
    files: int
    size: int
    agreement: Agreement | None


def export(
    trained: Trained,
    out: str | Path | None = None,
    *,
    dtype: str | None = None,
    shard: str = "5GB",
    adapter: bool = False,
    anew: bool = False,
    name: str | None = None,
    shown: Shown = dict,
) -> Exported:
    """Write a model for others: whole, an adapter merged into its base, or the adapter alone.

    Args:
        trained: which.
        out: a new folder; in the run's folder, `export`, when not given.
        dtype: the weights' number format: float32, bfloat16 or float16; that of the training when not given.
        shard: the most that a file of weights holds, such as 5GB.
        adapter: whether to write the adapter alone, which is loaded onto its base.
        anew: whether a model that lies there gives way.
        name: on the card; that of the folder, or of the run, when not given.
        shown: hides secrets of the configuration on the card.

    Raises:
        ConfigError: there is no adapter, a weight has no place in the number format, the folder holds something.
        CheckpointError: what was written does not compute what was exported; nothing is left then.
    """
    if adapter and not trained.is_adapter:
        raise ConfigError(f"{trained} is a whole model: it has no adapter that could be exported alone.")
    place = Path(out) if out is not None else place_for(trained, "export")
    with written(place, anew) as temporary:
        if adapter:
            agreement = None
            with adapter_as_used(trained.folder) as usable:
                for file in (usable / adapters.SETTINGS, *usable.glob(f"{adapters.FILE}.*")):
                    shutil.copy(file, temporary)
            for file in trained.folder.glob(f"{adapters.BESIDE}.*"):
                shutil.copy(file, temporary)
            tokenizer_of(trained).save_pretrained(temporary)
        else:
            agreement = _write_whole(trained, temporary, dtype, shard)
        title = name or (trained.run if out is None else place).resolve().name
        (temporary / CARD).write_text(card(trained, title, shown, adapter), encoding="utf-8")
        sizes = [path.stat().st_size for path in temporary.glob("*.safetensors")]
    return Exported(place, len(sizes), sum(sizes), agreement)


def _write_whole(trained: Trained, folder: Path, dtype: str | None, shard: str) -> Agreement:
    """Write a whole model, and compare it with what it was made of after it was read again."""
    model, tokenizer = load(trained)
    ids = probe(model, tokenizer)
    before = logits(model, ids)
    base = before
    if is_adapter(model):
        with model.disable_adapter():
            base = logits(model, ids)
        model = adapters.merge(model)
    wanted = _NAMES[dtype] if dtype is not None else model.dtype
    if wanted != model.dtype:
        check_range(model, wanted)
        model = model.to(wanted)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    del model
    again, _ = load(find(folder))
    agreement = agreement_of(base, before, logits(again, ids), wanted)
    agreement = replace(agreement, effect=agreement.effect if trained.is_adapter else 0.0)
    if not agreement.error <= agreement.limit:  # NaN is not
        raise CheckpointError(
            f"Exporting '{trained.folder}' failed: {agreement}, and rounding explains {agreement.limit:.2g}. Nothing "
            "was written. Give another --dtype."
        )
    return agreement


def check_range(model: Any, dtype: torch.dtype) -> None:
    """Raise a ConfigError where a weight is beyond what a number format holds, and would be infinite in it."""
    most = torch.finfo(dtype).max
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and weight.numel() and not (largest := weight.abs().max().item()) <= most:
            raise ConfigError(
                f"{name} holds {largest:.4g}, and {str(dtype).removeprefix('torch.')} ends at {most:.5g}. Give "
                "--dtype bfloat16, which holds it."
            )


def push(exported: Exported, name: str, public: bool = False, token: str | None = None) -> str:
    """Upload an exported model to a repository of the hub, which is made if it is not there; return its address.

    Args:
        exported: the model.
        name: of the repository.
        public: whether everyone may see it; else only its owner.
        token: one that may write there; the one that is logged in when not given.

    Raises:
        ConfigError: nothing can be written there; it should be private, and is there for everyone to see; the model is
            an adapter on a base that is only on this machine.
    """
    settings = exported.folder / adapters.SETTINGS
    if settings.is_file():
        from peft import PeftConfig

        base = PeftConfig.from_pretrained(str(exported.folder)).base_model_name_or_path
        if base and Path(base).exists():
            raise ConfigError(
                f"The adapter is for '{base}', a folder of this machine, which nobody else has. Push the model with "
                "the adapter merged: leave out --adapter."
            )
    from huggingface_hub import upload_folder

    made = repository(name, token, not public)
    upload_folder(repo_id=made, folder_path=exported.folder, commit_message="Export by Trainwright", token=token)
    return made
