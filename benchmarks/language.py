"""What the benchmarks of language models share: rows, a clock, turns of processes, and a loop written by hand."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM_UP = 2
SIZES = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 512, "use_cache": False,
}  # fmt: skip


def new_model(vocabulary: int, attention: str = "sdpa") -> Any:
    """Return a Llama of hidden size 256 and 4 layers with random weights and an untied head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(LlamaConfig(vocab_size=vocabulary, **SIZES), attn_implementation=attention)


def write_tokenizer(folder: Path, vocabulary: int) -> Path:
    """Write a tokenizer of as many words, which nothing is tokenised with, and return its folder."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1} | {f"w{number}": number for number in range(2, vocabulary)}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<end>")), eos_token="<end>", pad_token="<pad>"
    )
    made.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def useful_operations(rows: Sequence[Any], vocabulary: int) -> float:
    """Return the floating point operations that training a step on some rows takes at least, of `new_model`.

    Two for every weight and token, as many twice in the backward pass; causal attention; the head at the targets.

    Args:
        rows: documents, each with `input_ids` and `labels`.
        vocabulary: classes of the head.
    """
    width, inner, layers = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["num_hidden_layers"]
    weights, total = 4 * width**2 + 3 * width * inner, 0
    for row in rows:
        tokens = len(row["input_ids"])
        targets = sum(int(label) != -100 for label in row["labels"][1:])
        total += layers * (2 * weights * tokens + 2 * width * tokens * (tokens + 1)) + 2 * width * vocabulary * targets
    return 3.0 * total


class Clock:
    """Notes the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.spent: list[float] = []

    def tick(self) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        self.spent.append(time.process_time())

    def callback(self, kind: Any) -> Any:
        """Return a callback of a library's own kind."""
        clock = self

        class Ticking(kind):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.tick()

        return Ticking()

    @property
    def seconds(self) -> float:
        """Time of the counted steps."""
        return self.ends[-1] - self.ends[WARM_UP - 1]

    @property
    def cpu_seconds(self) -> float:
        """Time that processors worked for the counted steps."""
        return self.spent[-1] - self.spent[WARM_UP - 1]


def peak() -> float:
    """Return the most memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def register_by_hand() -> None:
    """Make attention within documents known to transformers, as a user would write it."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, lengths: Any = None, **_: Any) -> Any:
        parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
        done = [torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in parts]
        return torch.cat(done, dim=2).transpose(1, 2), None

    AttentionInterface.register("by_hand", attend)
    AttentionMaskInterface.register("by_hand", lambda *given, **named: None)


def flat(rows: Sequence[Any]) -> tuple[Any, Any, list[int]]:
    """Return (tokens, positions, lengths) of some rows of tokens one after another; shape (1, tokens)."""
    import torch

    lengths = [len(row) for row in rows]
    tokens = torch.tensor([token for row in rows for token in row])[None]
    return tokens, torch.cat([torch.arange(length) for length in lengths])[None], lengths


def in_turns(module: str, engines: Sequence[str], rounds: int, *words: Any) -> dict[str, list[dict[str, float]]]:
    """Run every engine in turns, each time in a process of its own; return what they measured."""
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            command = [sys.executable, "-m", module, "--one", engine, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found[engine].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def lines(title: str, found: dict[str, list[dict[str, float]]]) -> str:
    """Return a line of the table for every engine; ratios are to the first one, median and range of the rounds."""
    base, made = next(iter(found.values())), []
    for engine, results in found.items():
        speed, memory = (statistics.median(one[what] for one in results) for what in ("speed", "memory"))
        ratios = [one["speed"] / other["speed"] for one, other in zip(results, base, strict=True)]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"
        share = memory / statistics.median(one["memory"] for one in base)
        made.append(f"| {title} | {engine} | {speed:.0f} | {spread} | {memory:.0f} | {share:.2f} |")
    return "\n".join(made)


HEAD = "| {} | engine | tokens/s | of the first | MB | of the first |\n|---|---|---|---|---|---|"
