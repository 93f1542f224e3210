"""How many problems a model solves where it always writes the likeliest token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

_LONGEST = 48  # tokens of an answer


def solved(model: Path, problems: Path, judge: Callable[[str, str, str], float]) -> float:
    """Return the share of right answers.

    Args:
        model: its folder, with its tokenizer.
        problems: a file of rows (prompt, answer, task).
        judge: says of what is written, the answer and the task whether it is right.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainwright.generation.sampler import Sampler
    from trainwright.generation.sampling import Sampling

    rows = [json.loads(line) for line in problems.read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model)
    settings = Sampling(_LONGEST, temperature=0.0)
    writer = Sampler(AutoModelForCausalLM.from_pretrained(model), settings, [tokenizer.eos_token_id])
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    answers = [one.ids for (one,) in writer.complete(prompts, [(number,) for number in range(len(rows))])]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return sum(judge(text, row["answer"], row["task"]) for text, row in zip(texts, rows, strict=True)) / len(rows)
