"""KTO, reward models and distillation against TRL, by the same file: tokens per second and peak memory, in turns.

`python -m benchmarks.methods [THREADS] [VOCABULARY...]`, about three minutes. The Llama of `benchmarks.sft`, the
teacher of distillation with other weights; prompts and answers of 20 to 150 tokens each, 4 rows a step, float32. Tokens
are those of prompt and answer that are no padding, of pairs both. Every figure is of a process of its own.
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

ROUNDS, STEPS, ROWS = 2, 8, 4
METHODS = {"KTO": "TRL_KTO", "REWARD": "TRL_REWARD", "DISTILL": "TRL_GKD"}
_CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def rows_of(method: str, vocabulary: int) -> list[dict[str, Any]]:
    """Return rows of random words, of the columns that a method reads, and with the tokens of each."""
    import numpy as np

    generator = np.random.default_rng(0)

    def words() -> str:
        tokens = generator.integers(3, vocabulary, int(generator.integers(20, 151)))
        return "".join(f" w{token}" for token in tokens)

    made: list[dict[str, Any]] = []
    for number in range(STEPS * ROWS):
        prompt, one, other = words(), words(), words()
        if method == "KTO":
            made.append({"prompt": prompt, "completion": one, "label": number % 2 == 0})
        elif method == "REWARD":
            made.append({"prompt": prompt, "chosen": one, "rejected": other})
        else:
            turns = (("user", prompt), ("assistant", one))
            made.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    return made


def tokens_in(row: dict[str, Any]) -> int:
    """Return the tokens of a row: of a pair those of the prompt twice."""
    if "messages" in row:
        return sum(len(message["content"].split()) for message in row["messages"])
    prompt = len(row["prompt"].split())
    return sum(prompt + len(row[name].split()) for name in ("completion", "chosen", "rejected") if name in row)


def content(place: Path, vocabulary: int, engine: str) -> dict[str, Any]:
    """Return a run's file."""
    method = next(name for name, theirs in METHODS.items() if engine in (name, theirs))
    kwargs: dict[str, Any] = {"max_length": 1024}
    if method == "DISTILL":
        kwargs |= {"teacher_model_name_or_path": str(place / "teacher"), "lmbda": 0.0}
    return {
        "model": {
            "model_name": str(place / "model"), "chat_template": str(place / "chat.jinja"),
            "tokenizer_name": str(place / "tokenizer"),
        },
        "data": {"train": {"datasets": [{"dataset_name": str(place / "rows.jsonl")}]}},
        "training": {
            "output_dir": str(place / "out"), "trainer_type": engine, "max_steps": STEPS,
            "per_device_train_batch_size": ROWS, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
            "logging_strategy": "no", "report_to": "none", "optim": "adamw_torch_fused", "learning_rate": 1e-6,
            "train_sampling_strategy": "sequential", "save_final_model": False, "trainer_kwargs": kwargs,
        },
    }  # fmt: skip


def prepare(place: Path, vocabulary: int) -> None:
    """Write a model, a teacher, a tokenizer and a chat template."""
    import torch

    for name in ("model", "teacher"):
        model = language.new_model(vocabulary)
        with torch.no_grad():
            for parameter in model.parameters() if name == "teacher" else ():
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(place / name)
    write_splitting_tokenizer(place / "tokenizer", vocabulary)
    (place / "chat.jinja").write_text(_CHAT)


def measure(engine: str, vocabulary: int, threads: int, place: Path) -> dict[str, float]:
    """Train in this process; return tokens per second and the growth of peak memory in MB.

    Args:
        place: where `prepare` has written.
    """
    import datasets  # noqa: F401  loaded before memory is counted, as transformers is
    import torch
    import transformers
    import yaml

    from trainwright.config.composition import build
    from trainwright.config.reading.read import load_checked

    torch.set_num_threads(threads)
    method = next(name for name, theirs in METHODS.items() if engine in (name, theirs))
    data, clock = rows_of(method, vocabulary), Clock()
    language.write_rows(place / "rows.jsonl", data)
    (place / "run.yaml").write_text(yaml.safe_dump(content(place, vocabulary, engine)))
    before = language.peak()
    trainer = build(load_checked(place / "run.yaml").config)
    trainer.trainer.add_callback(clock.callback(transformers.TrainerCallback))  # type: ignore[attr-defined]
    trainer.train()
    counted = sum(map(tokens_in, data[WARM_UP * ROWS :]))
    return {"speed": counted / clock.seconds, "memory": language.peak() - before}


def main() -> None:
    """Print a table of medians and the range of the rounds' ratios for every method."""
    numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
    threads, vocabularies = (numbers or [2])[0], numbers[1:] or [8192]
    print(language.HEAD.format("vocabulary"))
    for vocabulary in vocabularies:
        place = Path(tempfile.mkdtemp())
        prepare(place, vocabulary)
        for name, theirs in METHODS.items():
            found = language.in_turns("benchmarks.methods", (theirs, name), ROUNDS, vocabulary, threads, place)
            print(language.lines(str(vocabulary), found), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))))
    else:
        main()
