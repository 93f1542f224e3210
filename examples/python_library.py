"""Text for the examples, from Python's own standard library: a tokenizer, preferences, and functions with docstrings.

`python examples/python_library.py FOLDER [FILES]` writes tokenizer/, preferences.jsonl and docstrings.jsonl.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from pathlib import Path

from trainwright.data.sources.python_source import python_source
from trainwright.tasks.code.tokens import train_tokenizer


def functions(text: str) -> list[tuple[str, str]]:
    """Return (source without docstring, docstring) of the short functions of a file that have one."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        docstring = ast.get_docstring(node)
        if docstring and len(docstring) < 200:
            node.body = node.body[1:]
            found.append((ast.unparse(node), docstring))
    return [(code, docstring) for code, docstring in found if len(code) < 600]


def preferences(text: str, rng: random.Random) -> list[dict[str, str]]:
    """Return real continuations of lines of code (chosen) beside the same words in a random order (rejected)."""
    lines = [line for line in text.splitlines() if len(line.split()) > 4]
    pairs = []
    for prompt, answer in zip(lines[::8], lines[1::8], strict=False):
        words = answer.split(" ")
        shuffled = " ".join(rng.sample(words, len(words)))
        if shuffled != answer:
            pairs.append({"prompt": f"{prompt}\n", "chosen": answer, "rejected": shuffled})
    return pairs


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def main(folder: Path, files: int | None) -> None:
    """Write everything into a folder; `files` takes only so many of the library's files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts, rng = python_source().train[:files], random.Random(0)
    tokenizer = train_tokenizer(texts, vocab_size=2048)
    tokenizer.save_pretrained(folder / "tokenizer")
    print(f"{folder / 'tokenizer'}: {len(tokenizer)} tokens")
    write(folder / "preferences.jsonl", [pair for text in texts for pair in preferences(text, rng)][:2000])
    known = [pair for text in texts for pair in functions(text)][:2000]
    write(folder / "docstrings.jsonl", [{"prompt": f"{code}\n# ", "completion": text} for code, text in known])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
