"""Models, rows and arguments that the stages share; small where a check is about numbers, of real size for figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

IGNORED = -100


@dataclass(frozen=True)
class Setting:
    """Where a stage runs.

    Attributes:
        place: a folder of its own.
        device: cuda or cpu.
        tiny: whether everything has toy size.
    """

    place: Path
    device: str
    tiny: bool

    @property
    def on_card(self) -> bool:
        """Whether it is a GPU."""
        return self.device == "cuda"

    def pick(self, real: Any, toy: Any) -> Any:
        """Return what has real size, or toy size."""
        return toy if self.tiny else real


def sizes(setting: Setting) -> dict[str, int]:
    """Return the sizes of the model of a check."""
    width, layers, vocabulary = setting.pick((256, 4, 4096), (32, 2, 64))
    return {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
        "num_attention_heads": width // 16, "num_key_value_heads": width // 32, "max_position_embeddings": 512,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def llama(setting: Setting, seed: int = 0, **changes: Any) -> Any:
    """Return a Llama with random weights, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**sizes(setting), **changes}))


def rows(setting: Setting, count: int, seed: int = 1, longest: int | None = None) -> list[dict[str, list[int]]]:
    """Return rows of different lengths, of which the first part is no target."""
    generator = torch.Generator().manual_seed(seed)
    made, longest = [], longest or setting.pick(200, 24)
    for _ in range(count):
        length = int(torch.randint(8, longest, (1,), generator=generator))
        tokens = torch.randint(3, sizes(setting)["vocab_size"], (length,), generator=generator).tolist()
        made.append({"input_ids": tokens, "labels": [IGNORED] * (length // 3) + tokens[length // 3 :]})
    return made


def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad rows at their ends."""
    longest = max(len(row["input_ids"]) for row in batch)

    def column(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in batch])

    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch]
    return {
        "input_ids": column("input_ids", 0),
        "labels": column("labels", IGNORED),
        "attention_mask": torch.tensor(mask),
    }


def packed(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Put rows one after another into one."""
    labels = [[IGNORED, *row["labels"][1:]] for row in batch]
    return {
        "input_ids": torch.tensor([sum((row["input_ids"] for row in batch), [])]),
        "labels": torch.tensor([sum(labels, [])]),
        "position_ids": torch.tensor([sum((list(range(len(row["input_ids"]))) for row in batch), [])]),
        "use_cache": False,
    }


def arguments(setting: Setting, name: str = "run", **changes: Any) -> Any:
    """Return the arguments of a short run."""
    from trainwright import TrainingArguments

    usual = {
        "max_steps": 6, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4,
        "learning_rate": 1e-3, "report_to": "none", "disable_tqdm": True, "use_cpu": not setting.on_card,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    return TrainingArguments(str(setting.place / name), **{**usual, **changes})


def losses(trainer: Any) -> list[float]:
    """Return the logged losses."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def worst(ours: list[float], theirs: list[float]) -> float:
    """Return the greatest relative difference of two lists of losses."""
    if len(ours) != len(theirs) or not ours:
        raise AssertionError(f"{len(ours)} losses beside {len(theirs)}")
    return max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(ours, theirs, strict=True))


def expect(is_so: bool, what: str) -> None:
    """Raise what is wrong, unless it is so."""
    if not is_so:
        raise AssertionError(what)
