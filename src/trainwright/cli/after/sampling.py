"""How tokens are chosen, as the commands that write ask for it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trainwright.cli.numbers import at_least, written

if TYPE_CHECKING:
    from trainwright.generation.sampling import Sampling


def add_arguments(parser: argparse.ArgumentParser, temperature: float, top_p: float, tokens: int) -> None:
    """Add the options, with their defaults."""
    group = parser.add_argument_group("how tokens are chosen")
    group.add_argument("--max-new-tokens", type=at_least(1), default=tokens, metavar="N", help=f"at most ({tokens})")
    what = f"0 always takes the likeliest ({temperature:g})"
    group.add_argument("--temperature", type=at_least(0.0), default=temperature, metavar="T", help=what)
    group.add_argument(
        "--top-p", type=at_least(0.0, 1.0), default=top_p, metavar="P", help=f"the likeliest ({top_p:g})"
    )
    group.add_argument("--top-k", type=at_least(0), default=0, metavar="K", help="so many of the likeliest (0: all)")
    group.add_argument("--repetition-penalty", type=at_least(0.0), default=1.0, metavar="R", help="1 is none (1)")
    group.add_argument(
        "--stop", type=written, action="append", default=[], metavar="TEXT", help="ends an answer; several are allowed"
    )
    group.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")


def asked(args: argparse.Namespace) -> Sampling:
    """Return the settings that a command line asks for.

    Raises:
        ConfigError: one of them is out of its range.
    """
    from trainwright.generation.sampling import Sampling

    return Sampling(
        max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_k=args.top_k, top_p=args.top_p,
        repetition_penalty=args.repetition_penalty, stop=tuple(args.stop),
    )  # fmt: skip
