"""Running sums over GF(17): steps per CPU second, and steps and seconds to 95 %, against `transformers.Trainer`.

`python -m benchmarks.algebra [SEED ...]`. The same model, rows, batches and schedule (examples/4_gf17.yaml), one
thread; the engines take turns in one process. Both look at 1,000 problems by teacher forcing every 100 steps.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[1] / "examples" / "4_gf17.yaml"
ENOUGH = 0.95
STEPS = 150  # of a round of the first table
ROUNDS = 3


def sections(folder: Path, seed: int) -> dict[str, Any]:
    """Return the example's sections with problems in a folder, made when they are not there."""
    from trainwright.pipelines import DatasetPipeline
    from trainwright.pipelines.file import read_file

    data = folder / "data"
    names = {"lexer_config": "lexer.yaml", "train_dataset_path": "train_raw.txt", "test_dataset_path": "test_raw.txt"}
    moved = [f"data.{key}={data / name}" for key, name in names.items()]
    whole = read_file(
        EXAMPLE, [*moved, f"dataset.save_dir={data}", f"train.save_dir={folder / f'run-{seed}'}",
                  f"train.seed={seed}", f"model.seed={seed}", "train.save_strategy=no", "train.eval_strategy=no",
                  "train.verify_generation=none"]
    )  # fmt: skip
    if not data.exists():
        DatasetPipeline.from_config(whole["dataset"]).run()
    return whole


def trainers(whole: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return ours and transformers' Trainer, each with a model of the same weights."""
    import transformers

    from trainwright.pipelines import IOPipeline, ModelPipeline, TrainerPipeline

    io_dict = IOPipeline.from_config(whole["data"]).build()
    ours, theirs = (ModelPipeline.from_io_dict(whole["model"], io_dict).build() for _ in range(2))
    pipeline = TrainerPipeline.from_io_dict(whole["train"], ours, io_dict).build()
    mine = pipeline.trainer
    names = ("num_train_epochs", "learning_rate", "weight_decay", "adam_beta2", "max_grad_norm", "seed", "warmup_steps",
             "per_device_train_batch_size", "per_device_eval_batch_size")  # fmt: skip
    args = transformers.TrainingArguments(
        str(folder / "theirs"), use_cpu=True, report_to="none", save_strategy="no", eval_strategy="no",
        disable_tqdm=True, logging_strategy="no", remove_unused_columns=False, label_names=["labels"],
        **{name: getattr(mine.args, name) for name in names},
    )  # fmt: skip
    other = transformers.Trainer(
        theirs, args, data_collator=mine.data_collator, train_dataset=io_dict["train_dataset"],
        eval_dataset=io_dict["test_dataset"], compute_metrics=mine.compute_metrics,
        preprocess_logits_for_metrics=mine.preprocess_logits_for_metrics,
    )  # fmt: skip
    return {"trainwright": mine, "transformers": other}


def timed(trainer: Any, steps: int) -> float:
    """Return CPU seconds of a training of so many steps."""
    trainer.args.max_steps = steps
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


def to_enough(trainer: Any, base: type) -> tuple[float, float]:
    """Train until 95 % are right, looked at every 100 steps; return the step and wall seconds."""
    reached: list[float] = []
    start = time.perf_counter()

    class Until(base):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_evaluate = state.global_step % 100 == 0

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            if metrics["eval_success_rate"] >= ENOUGH:
                reached[:] = [state.global_step, time.perf_counter() - start]
                control.should_training_stop = True

    trainer.add_callback(Until())
    trainer.train()
    return (reached[0], reached[1]) if reached else (float("nan"), float("nan"))


def main(*seeds: int) -> None:
    """Print both tables."""
    import torch
    import transformers

    import trainwright

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    spent: dict[str, list[float]] = {"trainwright": [], "transformers": []}
    for _ in range(ROUNDS):
        for name, trainer in trainers(sections(folder, 0), folder).items():
            spent[name].append(timed(trainer, STEPS))
    print("| engine | steps per CPU second |\n|---|---|")
    for name, seconds in spent.items():
        print(f"| {name} | {STEPS / statistics.median(seconds):.2f} |", flush=True)
    print("\n| seed | engine | step of 95 % | seconds |\n|---|---|---|---|")
    for seed in seeds or (0, 1, 2):
        pair = trainers(sections(folder, seed), folder)
        for name, base in (
            ("trainwright", trainwright.TrainerCallback),
            ("transformers", transformers.TrainerCallback),
        ):
            step, seconds = to_enough(pair[name], base)
            print(f"| {seed} | {name} | {step:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
