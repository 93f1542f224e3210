"""`trainwright ui`: the page of the jobs, on this machine."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from trainwright.errors import JobError


def run(argv: Sequence[str]) -> int:
    """Serve the page until stopped."""
    parser = argparse.ArgumentParser(prog="trainwright ui", description="A page that shows the jobs.")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1; beyond it other machines may open the link")
    parser.add_argument("--port", type=int, default=7475, help="7475; 0 for a free one")
    parser.add_argument(
        "--host-name", action="append", default=[], metavar="NAME", help="by which a proxy is reached that leads here"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the link and open nothing")
    parser.add_argument("--token", nargs="?", const="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.token is not None:
        raise JobError(
            "--token is no option any more: the list of processes would show it to every user of the machine. Leave it "
            "out, and the printed link has a token; one of your own is given in the environment, as TRAINWRIGHT_TOKEN."
        )
    from trainwright.jobs.web.server import serve

    wrong = [name for name in args.host_name if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+", name)]
    if wrong:
        raise JobError(f"--host-name {wrong[0]!r} is no name of a machine; write it alone, such as lab.example.org.")
    serve(args.host, args.port, not args.no_browser, [name.lower() for name in args.host_name])
    return 0
