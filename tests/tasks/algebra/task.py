"""A small task on disk: the cumulative sum over GF(17), with CALT's three files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

LEXER = {
    "vocab": {"range": {"numbers": ["", 0, 16]}, "misc": [","], "flags": {"include_base_vocab": True}},
    "number_policy": {"attach_sign": True, "digit_group": 0, "allow_float": False},
    "strict": True,
}


def problems(count: int, seed: int) -> list[tuple[str, str]]:
    """Return lists of 3 to 5 numbers and their cumulative sums."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        numbers = [rng.randrange(17) for _ in range(rng.randint(3, 5))]
        sums = [sum(numbers[: i + 1]) % 17 for i in range(len(numbers))]
        made.append((" | ".join(map(str, numbers)), " | ".join(map(str, sums))))
    return made


def write(folder: Path, rows: int = 160, **train: Any) -> dict[str, Any]:
    """Write configs/train.yaml, configs/lexer.yaml and the data; return the configuration."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    for name, count, seed in (("train", rows, 1), ("test", 20, 2)):
        lines = [f"{problem} # {answer}\n" for problem, answer in problems(count, seed)]
        (folder / "data" / f"{name}_raw.txt").write_text("".join(lines))
    config = {
        "data": {
            "lexer_config": "configs/lexer.yaml",
            "train_dataset_path": "data/train_raw.txt",
            "test_dataset_path": "data/test_raw.txt",
            "num_train_samples": -1,
            "num_test_samples": -1,
            "validate_train_tokens": False,
            "validate_test_tokens": True,
        },
        "model": {
            "model_type": "generic",
            "num_encoder_layers": 1,
            "num_encoder_heads": 2,
            "num_decoder_layers": 1,
            "num_decoder_heads": 2,
            "d_model": 32,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_sequence_length": 64,
        },
        "train": {
            "save_dir": "./results/my_experiment",
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "warmup_ratio": 0.1,
            "batch_size": 16,
            "test_batch_size": 8,
            "lr_scheduler_type": "cosine",
            "max_grad_norm": 1.0,
            "optimizer": "adamw_torch",
            "num_workers": 0,
            "seed": 42,
            "eval_strategy": "steps",
            "eval_steps": 10,
            "save_strategy": "steps",
            "save_steps": 5,
            "save_total_limit": 3,
            "logging_steps": 5,
            "use_cpu": True,
            "wandb": {"project": "calt", "group": "gf17", "name": "mine", "no_wandb": True},
            **train,
        },
    }
    (folder / "configs" / "lexer.yaml").write_text(yaml.safe_dump(LEXER, sort_keys=False))
    (folder / "configs" / "train.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return config
