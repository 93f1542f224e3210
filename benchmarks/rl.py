"""GRPO against TRL's: tokens that are written and trained on per second, and peak memory, in turns.

`python -m benchmarks.rl [THREADS] [VOCABULARY...]`, about three minutes. The Llama of `benchmarks.sft`, prompts of 10
to 60 words, steps of 32 completions (4 prompts, 8 each) in micro-batches of 8, float32; the reward is the completion's
length. `even` completions have 64 tokens each. `ragged` ones end by chance, after any of 1 in 32 tokens, and have 128
at most. Tokens are those of the completions. Every figure is of a process of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import language
from benchmarks.dpo import write_splitting_tokenizer
from benchmarks.language import WARM_UP, Clock

ROUNDS, STEPS, GROUP, MICRO, ACCUMULATION = 2, 5, 8, 8, 4
LONGEST = {"even": 64, "ragged": 128}
ENDS = 32  # one token in so many ends a ragged completion
ENGINES = ("TRL", "file")
written: list[int] = []  # tokens of every generation


def length(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Return how many tokens each completion has, and count them."""
    written.append(sum(map(len, completion_ids)))
    return [float(len(one)) for one in completion_ids]


def prompts(vocabulary: int) -> list[dict[str, str]]:
    """Return prompts of random words."""
    import numpy as np

    generator = np.random.default_rng(0)
    sizes = generator.integers(10, 61, STEPS * ACCUMULATION * MICRO // GROUP)
    return [{"prompt": " ".join(f"w{n}" for n in generator.integers(3, vocabulary, size))} for size in sizes]


def by_file(place: Path, longest: int) -> Any:
    """Return our Trainer."""
    import yaml

    from trainwright.config.composition import build
    from trainwright.config.reading.read import load_checked

    kwargs = {
        "num_generations": GROUP, "max_completion_length": longest, "reward_functions": ["benchmarks.rl:length"],
        "reward_processes": 0,
    }  # fmt: skip
    told = {
        "model": {"model_name": str(place / "model")},
        "data": {"train": {"datasets": [{"dataset_name": str(place / "rows.jsonl")}]}},
        "training": {
            "output_dir": str(place / "out"), "trainer_type": "GRPO", "max_steps": STEPS, "use_cpu": True,
            "per_device_train_batch_size": MICRO, "gradient_accumulation_steps": ACCUMULATION, "save_strategy": "no",
            "disable_tqdm": True, "logging_strategy": "no", "report_to": "none", "optim": "adamw_torch_fused",
            "save_final_model": False, "learning_rate": 1e-6, "trainer_kwargs": kwargs,
        },
    }  # fmt: skip
    (place / "run.yaml").write_text(yaml.safe_dump(told))
    return build(load_checked(place / "run.yaml").config).trainer  # type: ignore[attr-defined]  # a language model's


def by_trl(place: Path, rows: list[dict[str, str]], longest: int) -> Any:
    """Return TRL's trainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    import benchmarks.rl as shared  # the module that our rewards are called by, which is not __main__

    args = GRPOConfig(
        str(place / "out"), max_steps=STEPS, per_device_train_batch_size=MICRO, save_strategy="no", use_cpu=True,
        gradient_accumulation_steps=ACCUMULATION, num_generations=GROUP, max_completion_length=longest, bf16=False,
        gradient_checkpointing=False, logging_strategy="no", report_to=[], disable_tqdm=True, learning_rate=1e-6,
    )  # fmt: skip
    return GRPOTrainer(str(place / "model"), shared.length, args, Dataset.from_list(rows))


def measure(engine: str, vocabulary: int, threads: int, kind: str) -> dict[str, float]:
    """Train in this process; return tokens per second and the growth of peak memory in MB."""
    import datasets  # noqa: F401  loaded before memory is counted, as transformers is
    import torch
    import transformers

    import benchmarks.rl as shared

    torch.set_num_threads(threads)
    place, rows, clock = Path(tempfile.mkdtemp()), prompts(vocabulary), Clock()
    language.write_rows(place / "rows.jsonl", rows)
    model = language.new_model(vocabulary)
    model.config.use_cache = True  # else TRL reads all tokens again for each one that it writes
    model.generation_config.use_cache = True
    if kind == "ragged":
        model.generation_config.eos_token_id = list(range(1, vocabulary, ENDS))
    model.save_pretrained(place / "model")
    write_splitting_tokenizer(place / "model", vocabulary)
    before = language.peak()
    trainer = by_trl(place, rows, LONGEST[kind]) if engine == "TRL" else by_file(place, LONGEST[kind])
    trainer.add_callback(clock.callback(transformers.TrainerCallback))
    trainer.train()
    counted = sum(shared.written[WARM_UP:])
    found = {"speed": counted / clock.seconds, "memory": language.peak() - before}
    return found | {"per_cpu_second": counted / clock.cpu_seconds}


def main() -> None:
    """Print a table of medians and the range of the rounds' ratios."""
    numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
    threads, vocabularies = (numbers or [2])[0], numbers[1:] or [8192]
    print(language.HEAD.format("vocabulary"))
    for vocabulary in vocabularies:
        for kind in LONGEST:
            found = language.in_turns("benchmarks.rl", ENGINES, ROUNDS, vocabulary, threads, kind)
            print(language.lines(f"{vocabulary}, {kind}", found), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])))
    else:
        main()
