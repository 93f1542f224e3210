"""Evaluation by generation of 1,000 rows: ours, `transformers.generate` with a cache, and a plain full-prefix decode.

`python -m benchmarks.generation`. A model of running sums over GF(17) is trained until about 90 % are right; then all
three evaluate in turns, one thread, CPU seconds and medians. Each is a whole evaluation: loss and metrics by teacher
forcing, and the share of problems that the model writes right.

`python -m benchmarks.generation profile` prints where one of ours spends its time, by Python's profiler, instead.
"""

from __future__ import annotations

import cProfile
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.algebra import sections, trainers

RIGHT = 0.88
ROUNDS = 5
LONGEST = 64


def learned(folder: Path) -> Any:
    """Return a trainer whose model writes about 90 % right."""
    import trainwright

    class Until(trainwright.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_evaluate = state.global_step >= 350 and state.global_step % 10 == 0

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            control.should_training_stop = metrics["eval_success_rate"] >= RIGHT

    trainer = trainers(sections(folder, 0), folder)["trainwright"]
    generation, trainer.generation = trainer.generation, None
    trainer.add_callback(Until())
    trainer.train()
    trainer.generation = generation
    return trainer


def full_prefix(model: Any, batch: dict[str, Any]) -> Any:
    """Return what a decoder without a cache writes: all of the answer is read again for every token."""
    import torch

    config = model.config
    encoded = model.encoder(batch["input_ids"], batch["attention_mask"])
    ids = torch.full((len(batch["input_ids"]), 1), config.decoder_start_token_id)
    done = torch.zeros(len(ids), dtype=torch.bool)
    while ids.shape[1] < LONGEST and not done.all():
        logits = model(attention_mask=batch["attention_mask"], decoder_input_ids=ids, encoder_outputs=encoded).logits
        chosen = logits[:, -1].argmax(-1).masked_fill(done, config.pad_token_id)
        done |= chosen == config.eos_token_id
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    return ids


def cached(model: Any, batch: dict[str, Any]) -> Any:
    """Return what transformers' generate writes."""
    return model.generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], max_length=LONGEST, do_sample=False
    )


def rate(trainer: Any, write: Callable[[Any, dict[str, Any]], Any]) -> float:
    """Evaluate by teacher forcing, generate for every row in its order, and return the share of exact matches."""
    import torch
    from torch.utils.data import DataLoader

    trainer.generation = None
    given = trainer.eval_dataset
    rows_in_order = [given[number] for number in range(len(given))]
    trainer.evaluate(rows_in_order)
    trainer.model.eval()
    loader = DataLoader(rows_in_order, trainer.args.eval_batch_size, collate_fn=trainer.data_collator)

    right = rows = 0
    decode = trainer.processing_class.decode
    with torch.no_grad():
        for batch in loader:
            for written, labels in zip(write(trainer.model, batch).tolist(), batch["labels"].tolist(), strict=True):
                reference = decode([one for one in labels if one >= 0], skip_special_tokens=True)
                right += decode(written, skip_special_tokens=True) == reference
                rows += 1
    return right / rows


def main() -> None:
    """Print a table."""
    import torch

    torch.set_num_threads(1)
    trainer = learned(Path(tempfile.mkdtemp()))
    settings = trainer.generation
    settings.max_length = LONGEST

    def ours() -> float:
        trainer.generation = settings
        return trainer.evaluate()["eval_generation_success_rate"]

    if sys.argv[1:] == ["profile"]:
        ours()  # once before, for what the first one alone does
        cProfile.runctx("ours()", {"ours": ours}, {}, sort="cumulative")
        return
    ways: dict[str, Callable[[], float]] = {
        "full prefix": lambda: rate(trainer, full_prefix),
        "transformers.generate": lambda: rate(trainer, cached),
        "trainwright": ours,
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            rates[name] = way()
            spent[name].append(time.process_time() - start)
    base = statistics.median(spent["full prefix"])
    print("| evaluation of 1,000 rows | right | CPU seconds | times faster than the full prefix |\n|---|---|---|---|")
    for name, seconds in spent.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {rates[name]:.1%} | {middle:.2f} | {base / middle:.1f} |")


if __name__ == "__main__":
    main()
