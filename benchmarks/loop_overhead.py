"""Loop overhead: ms per update, against a hand-written loop and transformers.Trainer.

`python -m benchmarks.loop_overhead [ROUNDS]`. One thread; the three take turns in every round; medians of the rounds.
Of a run the fastest three steps in a row count, which other work on the machine disturbs least.
"""

from __future__ import annotations

import functools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

import trainwright

WARM_UP, WINDOW = 50, 3


class OneParameter(nn.Module):
    """A model whose forward is nearly nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the mean of weight × x."""
        return {"loss": (self.weight * x).mean()}


def numbers(rows: int) -> list[dict[str, torch.Tensor]]:
    """Return rows of one number."""
    return [{"x": torch.ones(())} for _ in range(rows)]


def tokens(rows: int) -> list[dict[str, torch.Tensor]]:
    """Return rows of 64 tokens."""
    drawn = torch.randint(0, 1000, (rows, 64), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in drawn]


def tiny_llama() -> nn.Module:
    """Return a Llama of hidden size 128 and 2 layers."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=1000,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            use_cache=False,
        )
    )


def by_hand(model: nn.Module, data: Any, steps: int, more: int = 0) -> float:
    """Train with a plain loop of the same parts; return ms per update of the fastest window.

    Args:
        more: groups of the optimizer without a parameter, such as the Trainers' is of those that do not decay.
    """
    loader = DataLoader(data, batch_size=8, shuffle=True, collate_fn=trainwright.default_data_collator)
    groups = [{"params": list(model.parameters())}, *({"params": []} for _ in range(more))]
    optimizer = torch.optim.AdamW(groups, lr=5e-5, weight_decay=0.0, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (steps - step) / steps))
    model.train()
    done, ends, total = 0, [], torch.zeros(())
    while done < steps:
        for batch in loader:
            loss = model(**batch)["loss"]
            loss.backward()
            total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            done += 1
            if done >= WARM_UP and done % WINDOW == 0:
                ends.append(time.perf_counter())
            if done == steps:
                break
    return fastest(ends)


def fastest(ends: list[float]) -> float:
    """Return the ms of a step in the fastest window, from the ends of windows in seconds."""
    return min(after - before for before, after in pairwise(ends)) / WINDOW * 1e3


def by(library: Any) -> Callable[[nn.Module, Any, int], float]:
    """Return a function that trains with a library's Trainer and measures the same."""

    class Clock(library.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= WARM_UP and state.global_step % WINDOW == 0:
                self.ends.append(time.perf_counter())

    def run(model: nn.Module, data: Any, steps: int) -> float:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            args = library.TrainingArguments(
                folder,
                max_steps=steps,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            )
            trainer = library.Trainer(model, args, train_dataset=data, callbacks=[clock])
            trainer.remove_callback(library.PrinterCallback)
            trainer.train()
        return fastest(clock.ends)

    return run


def main(rounds: int = 7) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    engines = {
        "hand-written": by_hand,
        "hand-written, one group more": functools.partial(by_hand, more=1),
        "trainwright": by(trainwright),
        "transformers": by(transformers),
    }
    print("| model | engine | ms per update | of the hand-written loop |\n|---|---|---|---|")
    for name, model, data, steps in (
        ("one parameter", OneParameter, numbers(4000), 1000),
        ("Llama, hidden 128, 2 layers, 8 × 64", tiny_llama, tokens(4000), 130),
    ):
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in range(rounds):
            for engine, run in engines.items():
                torch.manual_seed(0)
                times[engine].append(run(model(), data, steps))
        for engine, values in times.items():
            ratios = [value / base for value, base in zip(values, times["hand-written"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"
            print(f"| {name} | {engine} | {statistics.median(values):.3f} | {spread} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
