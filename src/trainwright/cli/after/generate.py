"""`trainwright generate runs/sft-1 --prompts prompts.jsonl --out answers.jsonl`: answers to many prompts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.cli.numbers import at_least, written


def run(argv: Sequence[str]) -> int:
    """Answer every prompt of a file or of standard input; begun again after a kill, only what is left."""
    parser = argparse.ArgumentParser(
        prog="trainwright generate",
        description="Answer every prompt of a file. Given again after a kill, the command goes on where it was.",
    )
    parser.add_argument("run", help="a run's folder, the name of its job, a checkpoint, or a model's folder")
    parser.add_argument(
        "--prompts",
        default="-",
        metavar="FILE",
        help="rows with 'prompt', 'messages' or 'text', or lines of a .txt (-)",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="where to: a line of JSON each")
    parser.add_argument("--count", type=at_least(1), default=1, metavar="N", help="answers to every prompt (1)")
    parser.add_argument("--chat", action="store_true", help="a text is what a user says, and the answer a turn")
    parser.add_argument("--system", type=written, metavar="TEXT", help="the system prompt of conversations without one")
    parser.add_argument("--batch", type=at_least(1), default=16, metavar="N", help="answers at a time (16)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="the first N prompts alone")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="the weights' number format")
    parser.add_argument("--overwrite", action="store_true", help="answers that lie there give way")
    from trainwright.cli.after import sampling

    sampling.add_arguments(parser, temperature=0.0, top_p=1.0, tokens=256)
    args = parser.parse_args(argv)

    from trainwright.cli.after import in_job
    from trainwright.cli.after.quiet import quiet
    from trainwright.cli.files import to_write
    from trainwright.trained.asking.generating import generate
    from trainwright.trained.asking.writer import writer
    from trainwright.trained.folders import find
    from trainwright.trained.loading import fastest_device

    trained, settings = find(in_job.place_of(args.run)), sampling.asked(args)
    prompts = read(trained, args.prompts, args.limit)
    to_write(args.out)
    with quiet():
        model = writer(
            trained,
            settings,
            system=args.system,
            as_chat=args.chat,
            batch_size=args.batch,
            dtype=args.dtype,
            device=fastest_device(),
        )
    about = {"model": str(trained.folder.resolve())}
    left = generate(model, prompts, args.out, count=args.count, seed=args.seed, anew=args.overwrite, about=about)
    before = f" ({len(prompts) - left:,} were answered before)" if left < len(prompts) else ""
    print(f"{len(prompts):,} prompts answered{before} by {trained}: {args.out}")
    return 0


def read(trained: Any, given: str, limit: int | None) -> list[Any]:
    """Return the prompts of a file, or of standard input: lines of JSON, or of text.

    Raises:
        DataError: it has none, or a row asks nothing.
    """
    from trainwright.data.sources import json_lines
    from trainwright.errors import DataError
    from trainwright.trained.asking.prompts import prompt_of
    from trainwright.trained.measuring import rows

    if given != "-" and not given.endswith(".txt"):
        found = rows.read(trained, given, limit=limit).rows
        return [prompt_of(row, number) for number, row in enumerate(found)]
    what = "Standard input" if given == "-" else f"'{given}'"
    try:
        text = sys.stdin.read() if given == "-" else Path(given).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{what} is no text in UTF-8 ({error.reason} at byte {error.start}).") from None
    lines = json_lines.lines(text)[:limit]
    if not lines:
        raise DataError(f"{what} holds no prompt.")
    if not lines[0].lstrip().startswith("{"):
        return lines
    try:
        return [prompt_of(json.loads(line), number) for number, line in enumerate(lines)]
    except json.JSONDecodeError as error:
        raise DataError(f"A prompt is no line of JSON: {error}.") from None
