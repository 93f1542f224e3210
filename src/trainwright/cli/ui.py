"""`trainwright ui`: the page of the jobs, on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Serve the page until stopped."""
    parser = argparse.ArgumentParser(prog="trainwright ui", description="A page that shows the jobs.")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1; anything beyond it needs --token")
    parser.add_argument("--port", type=int, default=7475, help="7475; 0 for a free one")
    parser.add_argument("--token", help="asked for by the page; may also be in TRAINWRIGHT_TOKEN")
    args = parser.parse_args(argv)
    from trainwright.jobs.server import serve

    serve(args.host, args.port, args.token)
    return 0
