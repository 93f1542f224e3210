"""Fine-tuning a causal model: non-pad tokens per second and peak memory, against transformers.Trainer's defaults.

`python -m benchmarks.sft [THREADS] [VOCABULARY...]`. The same script with the import line changed: a Llama of hidden
size 256 and 4 layers with an untied head, rows of 20 to 400 tokens whose first 30 to 70 % are no targets, batch 8, a
collator that pads, float32. Every measurement is a process of its own; the engines take turns.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROUNDS, STEPS, WARM_UP, BATCH = 3, 10, 2, 8


def rows(vocabulary: int, count: int) -> list[dict[str, list[int]]]:
    """Return rows of random tokens; the labels of a part at the start are -100."""
    import numpy as np

    generator = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(generator.integers(20, 401))
        tokens = generator.integers(3, vocabulary, length).tolist()
        masked = int(length * generator.uniform(0.3, 0.7))
        made.append({"input_ids": tokens, "labels": [-100] * masked + tokens[masked:], "attention_mask": [1] * length})
    return made


def pad(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Pad rows on the right."""
    import torch

    longest = max(len(row["input_ids"]) for row in batch)
    filler = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {n: torch.tensor([row[n] + [f] * (longest - len(row[n])) for row in batch]) for n, f in filler.items()}


def measure(library_name: str, vocabulary: int, threads: int) -> dict[str, float]:
    """Train in this process; return tokens per second and the growth of peak memory in MB."""
    import importlib

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    library = importlib.import_module(library_name)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
                    num_attention_heads=4, max_position_embeddings=512, use_cache=False)
    )  # fmt: skip
    data = rows(vocabulary, STEPS * BATCH)

    class Clock(library.TrainerCallback):  # type: ignore[misc, name-defined]
        began = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()
            if state.global_step == WARM_UP:
                self.began = self.ended

    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Clock()
    args = library.TrainingArguments(
        tempfile.mkdtemp(), max_steps=STEPS, per_device_train_batch_size=BATCH, save_strategy="no", use_cpu=True,
        disable_tqdm=True, logging_strategy="no", report_to="none", train_sampling_strategy="sequential",
    )  # fmt: skip
    library.Trainer(model, args, train_dataset=data, data_collator=pad, callbacks=[clock]).train()
    tokens = sum(len(row["input_ids"]) for row in data[WARM_UP * BATCH :])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    return {"speed": tokens / (clock.ended - clock.began), "memory": grown}


def main() -> None:
    """Print a table of medians and the range of the rounds' ratios."""
    numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
    threads, vocabularies = (numbers or [2])[0], numbers[1:] or [8192, 50304]
    print("| vocabulary | engine | tokens/s | of transformers | MB | of transformers |\n|---|---|---|---|---|---|")
    for vocabulary in vocabularies:
        found: dict[str, list[dict[str, float]]] = {"transformers": [], "trainwright": []}
        for _ in range(ROUNDS):
            for name in found:
                command = [sys.executable, "-m", "benchmarks.sft", "--one", name, str(vocabulary), str(threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
        for name, results in found.items():
            print(line(vocabulary, name, results, found["transformers"]), flush=True)


def line(vocabulary: int, name: str, results: list[dict[str, float]], theirs: list[dict[str, float]]) -> str:
    """Return a line of the table."""
    speed, memory = (statistics.median(one[what] for one in results) for what in ("speed", "memory"))
    ratios = [one["speed"] / other["speed"] for one, other in zip(results, theirs, strict=True)]
    share = memory / statistics.median(one["memory"] for one in theirs)
    spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"
    return f"| {vocabulary} | {name} | {speed:.0f} | {spread} | {memory:.0f} | {share:.2f} |"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
