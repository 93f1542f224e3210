"""What the values of the files of algebra and imitation may be: from where to where numbers go (the least one says
whether it is a whole number; what is below an end is a share), and the types of the others. None is as if it were not
given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from trainwright.errors import ConfigError

_SHARE = (0.0, 1.0)
RANGES: dict[str, dict[str, tuple[float, float | None]]] = {
    "cfg.dataset": {
        "num_train_samples": (1, None), "num_test_samples": (0, None), "root_seed": (0, None), "n_jobs": (-1, None),
    },
    "cfg.data": {
        "num_train_samples": (-1, None), "num_test_samples": (-1, None), "display_samples": (0, None),
    },
    "cfg.model": {
        **dict.fromkeys(
            ("num_encoder_layers", "num_encoder_heads", "num_decoder_layers", "num_decoder_heads", "d_model",
             "encoder_ffn_dim", "decoder_ffn_dim", "max_sequence_length", "num_layers", "num_heads", "ffn_dim"),
            (1, None),
        ),
        **dict.fromkeys(
            ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"), _SHARE
        ),
        "init_std": (0.0, None), "seed": (0, None),
    },
    "cfg.train": {
        "warmup_ratio": _SHARE, "generation_max_length": (1, None), "generation_num_beams": (1, None),
    },
    "data": {
        "episodes": (1, None), "held_out": _SHARE, "split_seed": (0, None), "history": (1, None), "chunk": (1, None),
        "image_shift": (0, None),
    },
    "data.record": {"episodes": (1, None), "seed": (0, None)},
    "policy": {
        **dict.fromkeys(("width", "heads", "ffn", "latent", "noise_steps", "sample_steps"), (1, None)),
        **dict.fromkeys(("depth", "encoder_layers", "decoder_layers"), (0, None)),
        "dropout": _SHARE, "kl_weight": (0.0, None), "ensemble": (0.0, None), "seed": (0, None),
    },
    "train": {"early_stopping_patience": (1, None), "backbone_learning_rate": (0.0, None)},
    "rollout": {
        "episodes": (1, None), "seed": (0, None), "workers": (0, None), "film": (0, None), "rollout_steps": (1, None),
    },
}  # fmt: skip

_TEXT, _PATH, _TRUTH, _SECTION = (str,), (str, os.PathLike), (bool,), (Mapping,)
_NAMES: dict[tuple[type, ...], str] = {
    _TEXT: "a text",
    _PATH: "a path",
    _TRUTH: "true or false",
    _SECTION: "a section with keys",
}
TYPES: dict[str, dict[str, tuple[type, ...]]] = {
    "cfg.dataset": {"task": _TEXT, "save_dir": _PATH, "save_text": _TRUTH, "save_json": _TRUTH},
    "cfg.data": {
        "task": _TEXT, "use_jsonl": _TRUTH, "use_pickle": _TRUTH,
        **{f"{split}_dataset_{kind}": _PATH for split in ("train", "test") for kind in ("path", "jsonl", "pickle")},
    },
    "cfg.model": {"activation": _TEXT, "input_embedding_type": _TEXT, "embedding_layer_norm": _TRUTH},
    "cfg.train": {"save_dir": _PATH, "output_dir": _PATH, "verify_generation": _TEXT},
    "data": {"path": _PATH, "record": _SECTION, "discrete": _TRUTH},
    "data.record": {"env": _TEXT, "expert": _TEXT, "settings": _SECTION},
    "rollout": {"env": _TEXT, "settings": _SECTION},
    "train": {"output_dir": _PATH},
}  # fmt: skip


def check_values(section: Mapping[str, Any], name: str) -> None:
    """Raise a ConfigError for a value of a section that is of another type, or a number that is out of its range."""
    for key, kinds in TYPES.get(name, {}).items():
        if section.get(key) is not None and not isinstance(section[key], kinds):
            raise ConfigError(f"{name}.{key} is {section[key]!r}, but {_NAMES[kinds]} is expected.")
    for key, (least, end) in RANGES[name].items():
        value, kind = section.get(key), Integral if isinstance(least, int) else Real
        if value is None:
            continue
        number = float(value) if isinstance(value, kind) and not isinstance(value, bool) else None
        if number is None or not number >= least or (end is not None and number >= end):
            what = "a whole number" if kind is Integral else "a number"
            shown = f"of at least {least:g}" if end is None else f"from {least:g} to below {end:g}"
            raise ConfigError(f"{name}.{key} is {value!r}, but {what} {shown} is expected.")
