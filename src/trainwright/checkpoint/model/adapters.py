"""Adapters on disk: each in PEFT's own files, and beside them what those do not hold of what was trained.

The adapter `default` lies in the folder itself, every other one in a folder of its name, as PEFT writes them. PEFT
keeps of an encoder of prompts what it computes, not what is trained, and of the base model nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from trainwright.checkpoint.model.tensors import check_fit, identity, read, refuse, unique_tensors
from trainwright.errors import CheckpointError
from trainwright.models.adapters import initial_of, move_base, without_adapters
from trainwright.parallel.layouts.boxes import part_like

FILE = "adapter_model"
SETTINGS = "adapter_config.json"
INITIAL = "initial_adapter"
BESIDE = "beside_adapters"


def save(model: Any, folder: Path) -> None:
    """Write all adapters of a model as they are trained, and what else of it is trained or changes in training.

    Of adapters that began as a part of the base's weights, this is written too (`initial_adapter.safetensors`).
    """
    _write(model, folder)
    for name, begun in initial_of(model).items():
        save_file(begun, _place(folder, name) / f"{INITIAL}.safetensors", metadata={"format": "pt"})


def export(model: Any, folder: Path) -> None:
    """Write all adapters of a model as they are used: on the base as it was before there were adapters."""
    _write(model, folder)
    for name, begun in initial_of(model).items():
        as_used(_place(folder, name), begun)


def as_used(folder: Path, begun: dict[str, torch.Tensor]) -> None:
    """Write an adapter that lies in a folder as it was trained anew, as it is used.

    One that began as a part of the base's weights, W - s B0 A0, becomes what training has changed, as PEFT describes
    it (`PeftModel.save_pretrained`, path_initial_model_for_weight_conversion): s [B, -B0] [A; A0], of twice the rank.

    Args:
        folder: of the adapter.
        begun: what it began with, by the names of its file.
    """
    from peft import PeftConfig

    tensors = read(folder, FILE) or {}
    for key, start in begun.items():
        first = "lora_A" in key or "lora_embedding_A" in key
        start = start.to(tensors[key].dtype)
        tensors[key] = torch.cat((tensors[key], start if first else -start), dim=0 if first else 1)
    save_file(tensors, folder / f"{FILE}.safetensors", metadata={"format": "pt"})
    _of_twice_the_rank(PeftConfig.from_pretrained(str(folder))).save_pretrained(str(folder))


def _of_twice_the_rank(config: Any) -> Any:
    """Return the settings of an adapter with the same scale."""
    factor = 2**0.5 if config.use_rslora else 2  # the scale is alpha / sqrt(r), or alpha / r
    config.init_lora_weights, config.r, config.lora_alpha = True, 2 * config.r, factor * config.lora_alpha
    config.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {name: factor * alpha for name, alpha in (config.alpha_pattern or {}).items()}
    return config


def _place(folder: Path, name: str) -> Path:
    return folder if name == "default" else folder / name


def save_merged(model: Any, folder: Path, tokenizer: Any) -> None:
    """Write the model with its adapters merged into the weights, in place of the adapters that lie in the folder, such
    as those of a run that was over before; the model itself stays as it is."""
    merge(copy.deepcopy(model)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in [f"{one}.{kind}" for one in (FILE, BESIDE, INITIAL) for kind in ("safetensors", "bin")]:
        (folder / name).unlink(missing_ok=True)
    (folder / SETTINGS).unlink(missing_ok=True)


def merge(model: Any) -> Any:
    """Return the model below an adapter with the adapter merged into its weights, in place."""
    untie(model)
    merged = model.merge_and_unload()
    say_untied(merged)
    return merged


def untie(model: nn.Module) -> None:
    """Give a weight of its own to each of the layers that share one, such as the embeddings and the output layer, where
    an adapter changes one of them alone: merged into what they share it would change all."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    layers = [part.get_base_layer() for part in adapted if not isinstance(part, TrainableTokensLayer)]
    changed = {id(weight) for layer in layers for weight in layer._parameters.values() if weight is not None}
    seen: set[int] = set()
    for part in model.modules():
        for name, weight in part._parameters.items():
            if weight is not None and id(weight) in changed & seen:
                part._parameters[name] = nn.Parameter(weight.detach().clone(), weight.requires_grad)
            seen.add(id(weight))


def say_untied(model: Any) -> None:
    """Let the configurations of a model of transformers, and of the models in it, say where weights that they tie are
    no longer the same."""
    for part in model.modules():
        pairs: dict[str, str] = getattr(part, "get_expanded_tied_weights_keys", dict)()
        if any(part.get_parameter(one) is not part.get_parameter(other) for one, other in pairs.items()):
            part.config.tie_word_embeddings = False


def save_with_base(model: Any, folder: Path, tokenizer: Any) -> None:
    """Write the adapters, and into `base_model` the weights below them, as they were before training."""
    export(model, folder)
    without_adapters(copy.deepcopy(model)).save_pretrained(folder / "base_model")
    tokenizer.save_pretrained(folder)


def _write(model: Any, folder: Path) -> None:
    with _without_dropout_in_prompts(model):
        type(model).save_pretrained(model, folder)  # PEFT's own, also where one of several processes writes for all
        beside = _beside(model)
    if beside:
        save_file(beside, folder / f"{BESIDE}.safetensors", metadata={"format": "pt"})


@contextmanager
def _without_dropout_in_prompts(model: Any) -> Iterator[None]:
    """Have encoders of prompts compute what PEFT saves of them without drawing random numbers."""
    prompts = any(getattr(config, "is_prompt_learning", False) for config in model.peft_config.values())
    parts = [part for part in model.prompt_encoder.modules() if part.training] if prompts else []
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True


def _beside(model: Any) -> dict[str, torch.Tensor]:
    """Return trained parameters and saved buffers that are in no adapter's file.

    transformers' own adapters (`model.add_adapter`) are all among them: it writes only the active one.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    changing = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    changing |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    adapters = {identity(tensor) for name in model.peft_config for tensor in _adapter(model, name).values()}
    inside = {name for name, tensor in state.items() if identity(tensor) in adapters}
    wanted = changing | inside if is_native(model) else changing - inside
    return unique_tensors({name: tensor for name, tensor in state.items() if name in wanted})


def is_native(model: nn.Module) -> bool:
    """Whether a model of transformers holds adapters without PEFT's wrapper."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def _adapter(model: Any, name: str, embeddings: bool = False) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors by the names of its file; with the embeddings, which PEFT adds where they grew."""
    return tensors_of(model, name, None, embeddings)


def tensors_of(
    model: Any, name: str, state: dict[str, torch.Tensor] | None, embeddings: bool = False
) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors by the names of its file, out of the model's state or another one of its names."""
    from peft import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state, adapter_name=name, save_embedding_layers=embeddings
    )
    return tensors


def load(model: Any, folder: Path) -> None:
    """Copy all adapters of a folder into a model, each by its name, in place; one that the model lacks is added.

    Where both have a single one, their names may differ.

    Raises:
        CheckpointError: the folder lacks an adapter, or holds one of other shapes; nothing is changed then.
    """
    from peft import set_peft_model_state_dict

    places, mine = _places(folder), list(model.peft_config)
    beside = read(folder, BESIDE) or {}
    if len(places) == len(mine) == 1:
        places = {mine[0]: next(iter(places.values()))}
    if is_native(model) and beside:
        places, mine = {}, []
    lacking = [name for name in mine if name not in places]
    if lacking:
        has = f"the adapter{'s' * (len(places) > 1)} {', '.join(places)}" if places else "no adapter"
        raise CheckpointError(
            f"{folder} holds {has}, but the model has {', '.join(mine)}: {', '.join(lacking)} is not there. Build the "
            "model as it was when the checkpoint was written."
        )
    whole = model.state_dict()
    refuse(folder, [], [name for name in beside if name not in whole], [])
    encoders = {name for name in mine if any(key.startswith(f"prompt_encoder.{name}.") for key in beside)}
    kept = {name: read(places[name], FILE) or {} for name in mine if name not in encoders}
    inside: dict[str, dict[str, torch.Tensor]] = {}
    for name, saved in kept.items():
        inside[name] = _adapter(model, name)
        if not saved.keys() <= inside[name].keys():
            inside[name] = _adapter(model, name, embeddings=True)
        check_fit(saved, inside[name], places[name])
        _check_scale(model.peft_config[name], places[name])
    check_fit(beside, {name: whole[name] for name in beside}, folder)
    for name, saved in kept.items():
        spread = {key: part_like(tensor, inside[name][key]) for key, tensor in saved.items()}
        set_peft_model_state_dict(model, spread, adapter_name=name)
        begun, mine_begun = read(places[name], INITIAL), initial_of(model).get(name)
        if begun is not None and mine_begun is not None:
            move_base(model, name, mine_begun, begun)
            model.initial_adapters[name] = begun
    model.load_state_dict({name: part_like(tensor, whole[name]) for name, tensor in beside.items()}, strict=False)
    device = next(model.parameters()).device
    for name in places.keys() - set(mine):
        model.load_adapter(str(places[name]), name, torch_device=str(device))


def _check_scale(config: Any, folder: Path) -> None:
    """Raise a CheckpointError where a model multiplies adapters by another number than they were trained with: the same
    weights would be another model."""
    file = folder / SETTINGS
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name in ("lora_alpha", "alpha_pattern", "use_rslora"):
        now = getattr(config, name, None)
        if name in saved and saved[name] != now:
            raise CheckpointError(
                f"{folder} has adapters that were trained with {name} {saved[name]}, but the model has them with "
                f"{now}, which would make another model of the same weights. Take it back, or begin anew."
            )


def _places(folder: Path) -> dict[str, Path]:
    """Return where a folder holds adapters, by their names."""
    found = {} if not _holds(folder) else {"default": folder}
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return found | {path.name: path for path in inside if _holds(path)}


def _holds(folder: Path) -> bool:
    return any((folder / f"{FILE}.{kind}").exists() for kind in ("safetensors", "bin"))
