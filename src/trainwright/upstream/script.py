"""The same script with transformers' Trainer and ours, in turns: a small Llama on functions of Python's library."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from trainwright.data.sources.python_source import python_source
from trainwright.errors import ConfigError
from trainwright.tasks.code.functions import functions_of
from trainwright.tasks.code.tokens import train_tokenizer
from trainwright.upstream.compare import Counting, Result, measure

ENGINES = ("trainwright", "transformers")
STEPS, ROUNDS, BATCH = 12, 2, 8
_VOCABULARY = 8192
_LENGTHS = range(20, 401)  # tokens of a row
_SIZES = {
    "vocab_size": _VOCABULARY, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512, "use_cache": False,
}  # fmt: skip


def compare(steps: int = STEPS, rounds: int = ROUNDS) -> dict[str, list[Result]]:
    """Train with both in turns, each time in a new process; return the results by name.

    Raises:
        ConfigError: transformers' Trainer cannot run here, or one of them fails.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError("transformers' Trainer needs accelerate: pip install accelerate.")
    results: dict[str, list[Result]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(rows(steps * BATCH)), encoding="utf-8")
        for number in range(rounds):
            for engine in ENGINES:
                print(f"round {number + 1} of {rounds}: {engine}", flush=True)
                command = [sys.executable, "-m", __name__, engine, str(path), str(steps), folder]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    said = "\n".join(done.stderr.strip().splitlines()[-12:])
                    raise ConfigError(f"{engine} failed (exit code {done.returncode}):\n{said}")
                results[engine].append(Result(**json.loads(done.stdout.splitlines()[-1])))
    return results


def rows(count: int) -> list[dict[str, list[int]]]:
    """Return functions of Python's library as rows of tokens, in an order of chance; their first lines are no targets.

    Raises:
        DataError: there is not enough source.
    """
    texts = functions_of(python_source().train)
    tokenizer = train_tokenizer(texts[::4], _VOCABULARY)
    random.Random(0).shuffle(texts)
    made: list[dict[str, list[int]]] = []
    for text in texts:
        head, _, body = text.partition("\n")
        prompt, answer = (tokenizer(part)["input_ids"] for part in (f"{head}\n", body))
        if len(prompt) + len(answer) in _LENGTHS:
            labels = [-100] * len(prompt) + answer
            made.append({"input_ids": prompt + answer, "labels": labels, "attention_mask": [1] * len(labels)})
        if len(made) == count:
            break
    return made


def pad(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Return rows as a batch, filled on the right; shapes (rows, tokens)."""
    import torch

    longest = max(len(row["input_ids"]) for row in batch)
    filler = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {n: torch.tensor([row[n] + [f] * (longest - len(row[n])) for row in batch]) for n, f in filler.items()}


def run_one(engine: str, path: Path, steps: int, folder: str) -> Result:
    """Train with one of them in this process; return what came of it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    library = importlib.import_module(engine)  # the import that is changed
    torch.manual_seed(0)
    args = library.TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    result = Result()
    trainer = library.Trainer(
        LlamaForCausalLM(LlamaConfig(**_SIZES)), args, data_collator=Counting(pad, result),
        train_dataset=json.loads(path.read_text(encoding="utf-8")),
    )  # fmt: skip
    return measure(trainer, result)


def table(results: dict[str, list[Result]]) -> str:
    """Return tokens per second and peak memory of both, their ratios, and the largest difference of the losses."""
    speeds = {engine: median(one.speed for one in runs) for engine, runs in results.items()}
    memories = {engine: median(one.memory for one in runs) for engine, runs in results.items()}
    ours, theirs = ENGINES
    apart = max(
        abs(a - b) for one, other in zip(*results.values(), strict=True)
        for a, b in zip(one.losses, other.losses, strict=True)
    )  # fmt: skip
    lines = [f"{'':<14}{'tokens/s':>10}{'peak memory':>14}"]
    lines += [f"{engine:<14}{speeds[engine]:>10,.0f}{memories[engine]:>11,.0f} MB" for engine in ENGINES]
    return "\n".join([
        *lines, "",
        f"{speeds[ours] / speeds[theirs]:.2f} times as fast, in {memories[ours] / memories[theirs]:.2f} of the memory; "
        f"the losses of {len(results[ours][0].losses)} steps differ by {apart:.1e} at most.",
    ])  # fmt: skip


if __name__ == "__main__":
    name, where, number, output = sys.argv[1:]
    print(json.dumps(asdict(run_one(name, Path(where), int(number), output))))
