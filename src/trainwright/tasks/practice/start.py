"""What practice begins with: problems with their answers, a tokenizer of the letters of algebra, and a model that has
random weights."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from trainwright.tasks.algebra.problems import task_named

TASK = "derivative"
END, PAD = "<end>", "<pad>"
_TOKENS = (END, PAD, " = ", " + ", " - ", *"0123456789x*^-")
_PIECE = r" [-+=] |."
_SIZES = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip


def make_start(folder: Path, seed: int, worked: int = 1000, problems: int = 20000, unseen: int = 500) -> None:
    """Write a model of random weights, and three files of rows of which none shares a problem with another.

    Args:
        folder: gets `start/`, `worked.jsonl` (prompt, completion), `problems.jsonl` and `unseen.jsonl` (prompt, answer,
            task); where all are there already, nothing is done.
        seed: of the problems and of the weights.
        worked: rows that are learned from.
        problems: rows that are practised on.
        unseen: rows that are only measured on.
    """
    last = folder / "unseen.jsonl"
    if last.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    new_model(seed).save_pretrained(folder / "start")
    new_tokenizer().save_pretrained(folder / "start")
    rows = different_problems(seed, worked + problems + unseen)
    completed = [{"prompt": row["prompt"], "completion": row["answer"]} for row in rows[:worked]]
    _write(folder / "worked.jsonl", completed)
    _write(folder / "problems.jsonl", rows[worked : worked + problems])
    _write(last, rows[worked + problems :])


def different_problems(seed: int, count: int) -> list[dict[str, str]]:
    """Return rows (prompt, answer, task) of which no two have the same problem."""
    rng, task, found = random.Random(seed), task_named(TASK), dict[str, str]()
    while len(found) < count:
        problem, answer = task.make(rng)
        found.setdefault(problem, answer)
    return [{"prompt": f"{problem} = ", "answer": answer, "task": TASK} for problem, answer in found.items()]


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def new_tokenizer() -> Any:
    """Return a tokenizer whose tokens are digits, signs and the letter x."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({token: number for number, token in enumerate(_TOKENS)}, unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=PAD)


def new_model(seed: int) -> Any:
    """Return a small Llama of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    special = {"bos_token_id": None, "eos_token_id": _TOKENS.index(END), "pad_token_id": _TOKENS.index(PAD)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(_TOKENS), **special, **_SIZES))
