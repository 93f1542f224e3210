"""`trainwright examples list`, `trainwright examples copy NAME`: the examples that the documentation speaks of."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from trainwright.cli.files import to_write
from trainwright.errors import ConfigError, did_you_mean

ALL = "all"


def run(argv: Sequence[str]) -> int:
    """List the examples, or copy some to the folder `examples` here, where the documentation's commands expect them."""
    parser = argparse.ArgumentParser(prog="trainwright examples", description="The examples of the documentation.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="their names, and what they show")
    copy = actions.add_parser("copy", help="copy some to ./examples")
    copy.add_argument("names", nargs="+", metavar="NAME", help=f"as listed; {ALL} copies all")
    copy.add_argument("--to", type=Path, default=Path("examples"), help="another folder (examples)")
    args = parser.parse_args(argv)
    known = examples()
    if args.action == "list":
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {about(path)}" for name, path in known.items()))
        print(f"Copy some to ./examples: trainwright examples copy NAME ... ({ALL}: every one)")
    else:
        _copy(known, args.names, args.to)
    return 0


def examples() -> dict[str, Path]:
    """Return the examples' files by name."""
    folder = Path(str(files("trainwright"))) / "examples"
    if not folder.is_dir():  # a clone has them beside the source
        folder = Path(__file__).parents[4] / "examples"
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml"))
    return {str(path.relative_to(folder)): path for path in found}


def about(path: Path) -> str:
    """Return the first sentence of an example: of its docstring or its first comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    words = []
    for line in lines:
        words.append(line.strip('#" '))
        if not words[-1] or ". " in words[-1] or words[-1].endswith("."):
            break
    return " ".join(words).partition(". ")[0].rstrip(". ")


def _copy(known: dict[str, Path], names: Sequence[str], to: Path) -> None:
    chosen = list(known) if ALL in names else [_found(known, name) for name in names]
    there = [to / name for name in chosen if (to / name).exists()]
    if there:
        raise ConfigError(f"'{there[0]}' exists; move it away, or give another folder: --to FOLDER.")
    for name in chosen:
        shutil.copyfile(known[name], to_write(to / name))
        print(to / name)


def _found(known: dict[str, Path], name: str) -> str:
    """Return an example's whole name, which may be given without folder and ending.

    Raises:
        ConfigError: there is none.
    """
    for one in known:
        if name in (one, one.rpartition(".")[0], Path(one).name, Path(one).stem):
            return one
    short = [Path(one).stem for one in known]
    raise ConfigError(
        f"There is no example '{name}'.{did_you_mean(name, [*known, *short])} `trainwright examples list` names them."
    )
