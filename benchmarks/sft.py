"""Fine-tuning a causal model: non-pad tokens per second and peak memory, against transformers, TRL and a loop by hand.

`python -m benchmarks.sft [THREADS] [VOCABULARY...]`. A Llama of hidden size 256 and 4 layers with an untied head, rows
of 20 to 400 tokens whose first 30 to 70 % are no targets, 8 rows a step, float32. Every measurement is a process of
its own; the engines take turns. `swap` is transformers' script with the import line changed, `file` the same from a
YAML file, `file, packed` with pack: true (rows of 512 tokens, as many tokens a step), `hand` a loop without padding,
with attention by document and the head at the targets in chunks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import language
from benchmarks.language import WARM_UP, Clock

ROUNDS, STEPS, BATCH = 3, 12, 8
ENGINES = ("transformers", "TRL", "swap", "file", "file, packed", "hand")


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


def arguments() -> dict[str, Any]:
    """Return the arguments of all engines."""
    return {
        "max_steps": STEPS, "per_device_train_batch_size": BATCH, "save_strategy": "no", "use_cpu": True,
        "disable_tqdm": True, "logging_strategy": "no", "report_to": "none", "train_sampling_strategy": "sequential",
    }  # fmt: skip


def by_import(library_name: str, model: Any, data: Any, clock: Clock) -> Any:
    """Return the Trainer of transformers' script, from one library or the other."""
    import importlib

    library = importlib.import_module(library_name)
    args = library.TrainingArguments(tempfile.mkdtemp(), **arguments())
    callbacks = [clock.callback(library.TrainerCallback)]
    return library.Trainer(model, args, train_dataset=data, data_collator=pad, callbacks=callbacks)


def by_trl(model: Any, data: Any, place: Path, vocabulary: int, clock: Clock) -> Any:
    """Return TRL's trainer in float32 and without recomputing activations; otherwise by its defaults."""
    import datasets
    import trl
    from transformers import AutoTokenizer, TrainerCallback

    tokenizer = AutoTokenizer.from_pretrained(language.write_tokenizer(place / "tokenizer", vocabulary))
    args = trl.SFTConfig(str(place), **arguments(), bf16=False, gradient_checkpointing=False)
    table = datasets.Dataset.from_list([{n: row[n] for n in ("input_ids", "labels")} for row in data])
    return trl.SFTTrainer(
        model, args, train_dataset=table, processing_class=tokenizer, callbacks=[clock.callback(TrainerCallback)]
    )


def by_file(data: Any, place: Path, vocabulary: int, packed: bool, clock: Clock) -> Any:
    """Return the Trainer of a YAML file; packed, with as many tokens a step."""
    import yaml

    from trainwright import TrainerCallback
    from trainwright.config.composition import build_trainer
    from trainwright.config.reading.read import load_checked

    file = language.write_rows(place / "rows.jsonl", [{n: row[n] for n in ("input_ids", "labels")} for row in data])
    batch = BATCH * 210 // 512 if packed else BATCH
    content = {
        "model": {
            "model_name": "llama", "load_pretrained_weights": False, "model_kwargs": language.SIZES,
            "tokenizer_name": str(language.write_tokenizer(place / "tokenizer", vocabulary)),
        },
        "data": {"train": {"datasets": [{"dataset_name": str(file)}], "pack": packed}},
        "training": {
            "output_dir": str(place / "out"), "trainer_type": "SFT", "trainer_kwargs": {"max_length": 512},
            **arguments(), "per_device_train_batch_size": batch, "optim": "adamw_torch_fused",
        },
    }  # fmt: skip
    (place / "run.yaml").write_text(yaml.safe_dump(content))
    trainer = build_trainer(load_checked(place / "run.yaml").config)
    trainer.add_callback(clock.callback(TrainerCallback))
    return trainer


def by_hand(vocabulary: int, data: Any, clock: Clock) -> None:
    """Train with a loop of our reader's own."""
    import torch
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    language.register_by_hand()
    model = language.new_model(vocabulary, "by_hand")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)

    def head(hidden: Any, targets: Any) -> Any:
        return functional.cross_entropy(model.lm_head(hidden), targets, reduction="sum")

    for step in range(STEPS):
        batch = data[step * BATCH : (step + 1) * BATCH]
        tokens, positions, lengths = language.flat([row["input_ids"] for row in batch])
        labels = language.flat([row["labels"] for row in batch])[0][0].masked_fill(positions[0] == 0, -100)[1:]
        index = (labels != -100).nonzero().squeeze(1)
        hidden = model.model(input_ids=tokens, position_ids=positions, lengths=lengths).last_hidden_state[0, :-1][index]
        parts = zip(hidden.split(256), labels[index].split(256), strict=True)
        loss = sum(checkpoint(head, *part, use_reentrant=False) for part in parts) / len(index)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick()


def measure(engine: str, vocabulary: int, threads: int) -> dict[str, float]:
    """Train in this process; return what is in `results`, memory as the growth of its peak in MB."""
    import datasets  # noqa: F401  loaded before memory is counted, as transformers is
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(threads)
    data, clock, place = rows(vocabulary, 3 * STEPS * BATCH), Clock(), Path(tempfile.mkdtemp())
    counted = data[WARM_UP * BATCH : STEPS * BATCH]
    if engine == "hand":
        before = language.peak()
        by_hand(vocabulary, data, clock)
        return results(counted, vocabulary, clock, language.peak() - before)
    model = language.new_model(vocabulary) if not engine.startswith("file") else None
    before = language.peak()
    if engine.startswith("file"):
        trainer = by_file(data, place, vocabulary, "packed" in engine, clock)
    elif engine == "TRL":
        trainer = by_trl(model, data, place, vocabulary, clock)
    else:
        trainer = by_import({"swap": "trainwright"}.get(engine, engine), model, data, clock)
    if "packed" in engine:
        size = trainer.args.per_device_train_batch_size
        packed = range(WARM_UP * size, STEPS * size)
        counted = [document for number in packed for document in trainer.train_dataset.documents(number)]
    trainer.train()
    return results(counted, vocabulary, clock, language.peak() - before)


def results(counted: list[Any], vocabulary: int, clock: Clock, memory: float) -> dict[str, float]:
    """Return tokens and useful operations per second of the counted rows, those per CPU second, and the memory."""
    tokens = sum(len(row["input_ids"]) for row in counted)
    operations = language.useful_operations(counted, vocabulary)
    speeds = {"speed": tokens / clock.seconds, "operations": operations / clock.seconds}
    return {**speeds, "operations per CPU second": operations / clock.cpu_seconds, "memory": memory}


def main() -> None:
    """Print a table of medians and the range of the rounds' ratios."""
    numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
    threads, vocabularies = (numbers or [2])[0], numbers[1:] or [8192, 50304]
    print(language.HEAD.format("vocabulary"))
    for vocabulary in vocabularies:
        found = language.in_turns("benchmarks.sft", ENGINES, ROUNDS, vocabulary, threads)
        print(language.lines(str(vocabulary), found), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
