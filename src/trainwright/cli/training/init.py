"""`trainwright init sft`: a commented YAML file to start from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from trainwright.cli.files import to_write
from trainwright.errors import ConfigError

SCHEMA = ".trainwright.schema.json"  # beside the file: a path of this machine would be none on another
TASKS = ("algebra", "imitation")


def run(argv: Sequence[str]) -> int:
    """Write a file to start from, and beside it the JSON schema by which editors complete its keys."""
    from trainwright.config import methods

    examples = {one.name.lower(): one.example() for one in methods.everyone() if not one.library}
    parser = argparse.ArgumentParser(prog="trainwright init", description="Write a commented YAML file to start from.")
    parser.add_argument(
        "kind", choices=(*(name for name, text in examples.items() if text), *TASKS), help="what is trained"
    )
    parser.add_argument("file", nargs="?", type=Path, help="where to write it (<kind>.yaml)")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="of algebra: a folder with problems of your own; gets a lexer.yaml"
    )
    args = parser.parse_args(argv)
    if args.data is not None and args.kind != "algebra":
        parser.error(f"--data is of algebra; in {args.kind}.yaml the section data names it.")
    target = args.file or Path(f"{args.kind}.yaml")
    if target.exists():
        raise ConfigError(f"'{target}' exists; give another name: trainwright init {args.kind} FILE.")
    to_write(target)
    if args.kind in TASKS:
        text = methods.recipe(args.kind)
        if args.data is not None:
            from trainwright.pipelines.starting import for_problems

            text = for_problems(args.data, text)
        target.write_text(text, encoding="utf-8")
        print(f"Wrote {target}. Change it, then: trainwright {args.kind} train {target}")
        return 0
    target.write_text(f"# yaml-language-server: $schema={SCHEMA}\n{examples[args.kind]}", encoding="utf-8")
    target.with_name(SCHEMA).write_bytes((files("trainwright") / "recipes" / "run.schema.json").read_bytes())
    print(f"Wrote {target} (and {SCHEMA}, by which editors complete its keys).")
    print(f"Change it, then: trainwright check {target} && trainwright train {target}")
    return 0
