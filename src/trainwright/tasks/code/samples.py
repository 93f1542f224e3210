"""Functions that a code model writes, from the first lines of functions that it has never seen."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Sequence
from typing import Any

import torch

from trainwright.evaluation_mode import evaluation_mode
from trainwright.tasks.code.functions import does_something

TEMPERATURE, TOP_P = 0.4, 0.9
_TOKENS = 160  # of one function, at most
_SIGNATURE = re.compile(r"def \w+\((?!self\b|cls\b|metacls\b).*")


def signatures(functions: Sequence[str], count: int) -> list[str]:
    """Return the first lines of `count` functions, such as `def ip_address(address):`; of methods there are none.

    They are drawn by chance, the same ones each time, and repeated where there are too few.
    """
    found = sorted({match[0] for text in functions if (match := _SIGNATURE.match(text))})
    random.Random(0).shuffle(found)
    return [found[number % len(found)] for number in range(count)] if found else []


def write_functions(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[str]:
    """Return a function for every signature, up to where the model ends it, or to the last whole line where it does
    not; the global random streams are left alone."""
    end = tokenizer.eos_token_id
    given = [[end, *tokenizer(prompt)["input_ids"]] for prompt in prompts]
    width = max(map(len, given), default=0)
    ids = torch.full((len(given), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(given):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    with evaluation_mode(model), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        made = model.generate(
            ids.to(model.device), attention_mask=mask.to(model.device), do_sample=True, temperature=TEMPERATURE,
            top_p=TOP_P, top_k=0, max_new_tokens=_TOKENS, pad_token_id=tokenizer.pad_token_id, eos_token_id=end,
        )  # fmt: skip
    return [
        prompt + first_function(tokenizer.decode(_until(tokens, end)), end in tokens)
        for prompt, tokens in zip(prompts, made[:, width:].tolist(), strict=True)
    ]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def first_function(text: str, ended: bool) -> str:
    """Return what follows on a signature, without what is in the function no more; or a last line that is not whole.

    Args:
        text: that was written after the signature.
        ended: whether the function ends where the text does.
    """
    lines = text.split("\n")
    outside = next((number for number, line in enumerate(lines) if number and line and not line[0].isspace()), None)
    if outside is None and not ended:
        outside = len(lines) - 1
    return "\n".join(lines[:outside]).rstrip()


def is_function(text: str) -> bool:
    """Whether Python accepts a text as a function that does something: with a statement besides docstring and pass."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.FunctionDef) and does_something(node) for node in body)
