"""The table of all keys as docs/keys.md shows it: `python -m trainwright.config.keys.table` prints the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from trainwright.config import methods
from trainwright.config.keys import fates, task_uses
from trainwright.config.keys.lines import Fate, Line

_HEAD = """# Keys of a run's file

What becomes of every key, by who trains. The table is the one that `trainwright check`, the loader and the schema for
editors read (`config/keys/uses.py`; `python -m trainwright.config.keys.table` prints this page), and a test gives every
key a value other than its default, and sees it arrive or be refused.

- **used**: the value arrives.
- **if**: it is used under a condition; without it, it is refused or has no effect, which is said.
- **none**: it changes nothing, which a warning says.
- **no**: it is refused before anything is loaded.

Refused is what would change a number, a file or a device and does not; what would change none of these is said.
Nothing is said of a value that is the default, or of a section whose switch the file sets off (`use_peft: false`).
Without a `trainer_type`, and with OUMI, the data decide who trains, and then the column. What the arguments under
`training` mean is in [arguments.md](arguments.md); they may stand under `trainer_kwargs` too. A thing that has two
names may have one of them in a file.

The demo's model (`model_name: ngram_llama`) brings its own tokenizer, rows and weights: it reads `model_kwargs`,
`dataset_kwargs` and the arguments, and refuses the rest.
"""
_TASKS = {
    "Algebra": (task_uses.ALGEBRA, task_uses.MODELS, task_uses.ALGEBRA_LINES, "by the model that `model_type` makes"),
    "Imitation": (task_uses.IMITATION, tuple(task_uses.SIZES), (), "by `policy.kind`"),
}


def page() -> str:
    """Return docs/keys.md."""
    parts, everyone = [_HEAD], [one.name for one in methods.everyone()]
    sections: dict[str, list[str]] = {}
    for key in fates.every_key():
        sections.setdefault(_section(key), []).append(key)
    for name, keys in sections.items():
        parts += [f"## {name}", _table(keys, everyone, fates.lines_of)]
    for title, (own, kinds, lines, what) in _TASKS.items():
        parts.append(f"# {title}\n\nThe sections of its file, {what}. Under `train` stands every argument too.")
        for section, names in own.items():
            keys = [f"{section}.{name}" for name in names]
            parts += [f"## {title}: {section}", _table(keys, kinds, _of(lines))]
        if own is task_uses.IMITATION:
            parts.append(f"{_sizes()}")
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _section(key: str) -> str:
    if key == "data.test":
        return "data.test"
    return key.rpartition(".")[0].replace(".*", "[]")


def _of(lines: Sequence[Line]) -> Callable[[str, str], list[Line]]:
    return lambda key, kind: [line for line in lines if key in line.keys and kind in line.trainers]


def _table(keys: Iterable[str], trainers: Sequence[str], lines_of: Callable[[str, str], list[Line]]) -> str:
    """Return keys whose cells are the same in one row, in the order of the first of them."""
    rows: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for key in keys:
        lines = {trainer: lines_of(key, trainer) for trainer in trainers}
        rows.setdefault((tuple(map(cell, lines.values())), _reasons(lines)), []).append(key.rpartition(".")[2])
    texts = [
        " | ".join([", ".join(f"`{name}`" for name in names), *cells, why]) for (cells, why), names in rows.items()
    ]
    head = [" | ".join(["key", *trainers, "why"]), "|".join(["---"] * (len(trainers) + 2))]
    return "\n".join(f"| {row} |" if "---" not in row else f"|{row}|" for row in [*head, *texts])


def cell(lines: Sequence[Line]) -> str:
    """Return in one word what becomes of a key."""
    always = [line for line in lines if line.used_if is None and not line.allows]
    if always:
        return "no" if always[0].fate is Fate.REFUSED else "none"
    return "if" if lines else "used"


def _reasons(lines: Mapping[str, Sequence[Line]]) -> str:
    found: dict[str, list[str]] = {}
    for trainer, own in lines.items():
        for line in own:
            found.setdefault(line.text, []).append(trainer)
    texts = [
        f"{', '.join(who)}: {text}" if len(found) > 1 and len(who) < len(lines) else text for text, who in found.items()
    ]
    return "<br>".join(texts).replace("|", "\\|")


def _sizes() -> str:
    rows = [f"| {kind} | {', '.join(f'`{name}`' for name in names)} |" for kind, names in task_uses.SIZES.items()]
    return "\n".join(["Under `policy` stand the sizes of the kind too:", "", "| kind | keys |", "|---|---|", *rows])


if __name__ == "__main__":
    print(page(), end="")
