"""A model of a file whose weights stay in their files, for processes that share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.checkpoint.model.mapped import mapped
from trainwright.config.schema import ModelParams
from trainwright.models.load import NO_DROPOUT, Kind, number_format


def mapped_model(params: ModelParams, kind: Kind) -> Any:
    """Return the model of a file, its weights mapped from theirs; None where it has to be loaded whole: weights of
    another number format than is asked for, by other names, or in other files than those of safetensors."""
    import transformers

    if not params.load_pretrained_weights or NO_DROPOUT in params.model_kwargs:
        return None
    name = str(params.model_name)
    options: dict[str, Any] = {"trust_remote_code": params.trust_remote_code}
    try:
        config, unknown = transformers.AutoConfig.from_pretrained(
            name,
            revision=params.model_revision,
            return_unused_kwargs=True,
            **options,
            **{**kind.settings, **params.model_kwargs},
        )
        files = _files(name, params.model_revision)
    except (OSError, ValueError, TypeError):  # which loading it whole tells in a sentence
        return None
    if unknown or not files:
        return None
    if params.attn_implementation is not None:
        options["attn_implementation"] = params.attn_implementation
    loader, dtype = getattr(transformers, kind.name), number_format(params) or config.dtype
    model: Any = mapped(lambda: loader.from_config(config, dtype=dtype, **options), files)
    if model is None:
        return None
    if model.can_generate() and _file(name, params.model_revision, "generation_config.json") is not None:
        model.generation_config = transformers.GenerationConfig.from_pretrained(name, revision=params.model_revision)
    return model.eval()


def _files(name: str, revision: str | None) -> list[Path]:
    """Return the files of a model's weights, brought here from the hub where they have to be; none where it has no
    safetensors."""
    from transformers.utils.hub import get_checkpoint_shard_files

    index = _file(name, revision, layout.INDEX)
    if index is not None:
        paths, _ = get_checkpoint_shard_files(name, index, revision=revision)
        return [Path(path) for path in paths]
    alone = _file(name, revision, layout.WEIGHTS)
    return [] if alone is None else [Path(alone)]


def _file(name: str, revision: str | None, file: str) -> str | None:
    from transformers.utils.hub import cached_file

    found: str | None = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found
