"""Checkpoints that other engines have written in shards, as ones that a run goes on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from trainwright.checkpoint import folder, layout
from trainwright.checkpoint.layout import Share
from trainwright.checkpoint.output import write_objects, write_tensors
from trainwright.checkpoint.sharded import plan, trees
from trainwright.checkpoint.sharded.distributed import METADATA, Distributed
from trainwright.errors import CheckpointError

MODEL, OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"  # accelerate's folders
_OPTIMIZERS = ("optimizer", "optim")  # as the states of loops are called
_LARGEST = 5 << 30  # bytes of tensors in a file, as transformers writes them


def parts_of(source: Path) -> dict[str, Path]:
    """Return the distributed checkpoints in a folder: of the model, of the optimizer, or of both together."""
    if (source / METADATA).exists():
        return {"both": source}
    found = {"model": source / MODEL, "optimizer": source / OPTIMIZER}
    return {kind: path for kind, path in found.items() if (path / METADATA).exists()}


def convert(source: Path, place: Path) -> None:
    """Write what a folder with distributed checkpoints holds as weights in safetensors, and the optimizer's state as
    that of a sharded run; all other files are copied. No more than a file's tensors are in memory at once.

    Args:
        source: a distributed checkpoint, or a folder with those of accelerate and transformers.
        place: the folder to be written, which must not be there.

    Raises:
        CheckpointError: there is no distributed checkpoint, or `place` is there already.
    """
    parts = parts_of(source)
    if "both" not in parts and "model" not in parts:
        raise CheckpointError(
            f"{source} holds no distributed checkpoint ({METADATA} or {MODEL}/{METADATA}). Give the folder that "
            "torch.distributed.checkpoint.save, or a Trainer with FSDP, has written."
        )
    if place.exists():
        raise CheckpointError(f"{place} is there already. Give a folder that is not.")
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.open_temporary(place)
    try:
        model = Distributed(parts.get("model", source))
        _write(model, _weights(model), layout.WEIGHTS, temporary)
        optimizer = Distributed(parts["optimizer"]) if "optimizer" in parts else model
        tree, names = _optimizer(optimizer)
        if tree:
            write_objects(tree, temporary / layout.OPTIMIZER)
            _write(optimizer, names, layout.OPTIMIZER, temporary)
        _copy_rest(source, temporary)
        folder.publish(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _weights(state: Distributed) -> dict[str, str]:
    """Return the entries that are weights, by their names in the model."""
    tensors = {name: place for name, place in state.places.items() if state.is_tensor(name)}
    model = {".".join(map(str, place[1:])): name for name, place in tensors.items() if place[0] in ("model", "app")}
    others = {
        ".".join(map(str, place)): name for name, place in tensors.items() if place[0] not in ("optimizer", "optim")
    }
    return model or others


def _optimizer(state: Distributed) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the optimizer's state as torch numbers it, with stand-ins for its larger tensors, and the entries of these
    by the names of their slices."""
    entries = {place[1:]: name for name, place in state.places.items() if place[0] in _OPTIMIZERS}
    groups: list[dict[str, Any]] = []
    for place, name in entries.items():
        if place[0] == "param_groups":
            groups += [{} for _ in range(place[1] + 1 - len(groups))]
            groups[place[1]][place[2]] = state.read(name)[name]
    ordered = [parameter for group in groups for parameter in group["params"]]
    numbers = {parameter: number for number, parameter in enumerate(ordered)}
    tree: dict[str, Any] = {"state": {}, "param_groups": groups} if groups else {}
    slices = {}
    for place, name in entries.items():
        if place[0] != "state":
            continue
        values = tree["state"].setdefault(numbers[place[1]], {})
        if state.is_tensor(name) and state.stand_in(name).dim():
            values[place[2]] = state.stand_in(name)
            slices[trees.name_of(("state", numbers[place[1]], place[2]))] = name
        else:
            values[place[2]] = state.read(name)[name]
    for group in groups:
        group["params"] = [numbers[parameter] for parameter in group["params"]]
    return tree, slices


def _write(state: Distributed, names: dict[str, str], file: str, place: Path) -> None:
    """Write entries, whole, into as few files as their size allows; of weights an index, where there are several."""
    sizes = {name: state.stand_in(entry).nbytes for name, entry in names.items()}
    groups = list(plan.in_groups(sizes, _LARGEST))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups):
        whole = state.read(*(names[name] for name in group))
        alone = file == layout.WEIGHTS and len(groups) == 1
        path = place / (file if alone else layout.of_share(file, Share(number, len(groups))))
        write_tensors({name: whole[names[name]] for name in group}, path)
        weight_map |= dict.fromkeys(group, path.name)
    if file == layout.WEIGHTS and len(groups) > 1:
        text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2) + "\n"
        (place / layout.INDEX).write_text(text, encoding="utf-8")


def _copy_rest(source: Path, place: Path) -> None:
    """Copy what is no part of a distributed checkpoint: configuration, tokenizer, progress, random numbers."""
    for path in source.iterdir():
        foreign = path.name in (METADATA, MODEL, OPTIMIZER) or path.suffix == ".distcp"
        if not foreign and path.is_file() and not (place / path.name).exists():
            shutil.copy2(path, place / path.name)
