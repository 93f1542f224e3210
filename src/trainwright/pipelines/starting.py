"""A file to start from for problems that are there: their own lexer.yaml, and the sections that name them."""

from __future__ import annotations

import re
from pathlib import Path

from trainwright.errors import DataError
from trainwright.tasks.algebra.data import read_rows
from trainwright.tasks.algebra.derived import Vocabulary
from trainwright.tasks.algebra.generate import LEXER, NAMES, write_yaml

_SPLITS = ("train", "test")
_DEMO, _DEMO_DATA = "runs/demo-algebra", "runs/demo-algebra-data"


def for_problems(folder: Path, recipe: str) -> str:
    """Return a YAML file for the problems of a folder, and write the lexer.yaml that they need, unless it has one.

    Args:
        folder: with train_raw.txt and test_raw.txt, or train_data.jsonl and test_data.jsonl.
        recipe: the file for the demo's problems.

    Raises:
        DataError: there are no such files, or no lexer can read them.
    """
    pairs = {kind: [f"{split}_{name}" for split in _SPLITS] for kind, name in NAMES.items()}
    kind = next((kind for kind, names in pairs.items() if all((folder / name).is_file() for name in names)), None)
    if kind is None:
        wanted = ", or ".join(" and ".join(names) for names in pairs.values())
        raise DataError(f"'{folder}' has no problems (looked for from {Path.cwd()}); {wanted} are expected there.")
    if not (folder / LEXER).exists():
        write_yaml(folder / LEXER, _vocabulary([folder / name for name in pairs[kind]]).lexer())
    text = re.sub(r"\A(#.*\n)+", f"# The problems of {folder}, which a small encoder-decoder learns.\n", recipe)
    text = re.sub(r"^dataset:.*?(?=^data:)", "", text, flags=re.M | re.S)
    text = re.sub(r"^  task:.*\n", "", text, flags=re.M)
    if kind == "jsonl":
        text = text.replace("data:\n", "data:\n  use_jsonl: true\n", 1)
        text = text.replace("_dataset_path:", "_dataset_jsonl:").replace(NAMES["txt"], NAMES[kind])
    return text.replace(_DEMO_DATA, str(folder)).replace(_DEMO, f"runs/{folder.resolve().name}")


def _vocabulary(files: list[Path]) -> Vocabulary:
    found = Vocabulary()
    for path in files:
        for pair in read_rows(path):
            for text in pair:
                if not isinstance(text, str):
                    raise DataError(
                        f"'{path}' holds tokens that are ready, of a lexer that must lie beside it: {LEXER}."
                    )
                found.add(text)
    return found
