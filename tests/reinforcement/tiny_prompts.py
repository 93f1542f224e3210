"""A folder with a model, prompts and rewards that count how often they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny_language as tiny

REWARDS = '''
import asyncio
import os
import random
from pathlib import Path

HERE = Path(__file__).parent


def note(name, texts):
    with open(HERE / "calls.txt", "a") as file:
        file.write("".join(f"{name} {text!r}\\n" for text in texts))


async def lucky(completions, answer, **columns):
    """Another reward at every call, which a run that calls it once more has not again."""
    file = HERE / "calls.txt"
    calls = len(file.read_text().splitlines()) if file.exists() else 0
    note("lucky", completions)
    await asyncio.sleep(0)
    return [random.Random(f"{calls} {number} {text}").random() for number, text in enumerate(completions)]


def letters(completion, answer):
    return None if answer == "none" else completion.count("a") / 10


def fails(completion):
    if "e" in completion:
        raise ValueError("an e")
    return 1.0


def hangs(completion):
    import time
    while "e" in completion:
        time.sleep(0.1)
    return 1.0
'''


def make_place(folder: Path, count: int = 12, **changes: Any) -> Path:
    """Return a folder with a model and its tokenizer, prompts.jsonl, and rewards.py."""
    import random

    folder.mkdir(parents=True, exist_ok=True)
    tiny.new_model(max_position_embeddings=128, **changes).save_pretrained(folder / "model")
    tiny.new_tokenizer().save_pretrained(folder / "model")
    rng = random.Random(3)
    rows = [{"prompt": tiny.sentence(rng, 2, 7), "answer": "none" if n == 1 else str(n)} for n in range(count)]
    tiny.write_rows(folder / "prompts.jsonl", rows)
    (folder / "rewards.py").write_text(REWARDS)
    return folder


def settings(place: Path, **changes: Any) -> dict[str, Any]:
    """A run's file, as a mapping: generations of 8 completions of 2 prompts, in steps of 4 rows."""
    kwargs = {
        "num_generations": 4,
        "max_completion_length": 12,
        "reward_functions": [f"{place / 'rewards.py'}:lucky", f"{place / 'rewards.py'}:letters"],
        "loss_type": "grpo",
        **changes.pop("trainer_kwargs", {}),
    }
    return tiny.settings(place, "prompts", trainer_type="GRPO", trainer_kwargs=kwargs, **changes)


def calls(place: Path) -> list[str]:
    file = place / "calls.txt"
    return file.read_text().splitlines() if file.exists() else []
