"""`trainwright jobs ...`: submit, watch, stop, resume and compare jobs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.numbers import at_least
from trainwright.errors import JobError

_MOST = 2**31 - 1  # that every database counts to


def run(argv: Sequence[str]) -> int:
    """Do what is asked with the jobs."""
    parser = _parser()
    args, words = parser.parse_known_args(_joined(argv))
    if args.action == "submit":
        args.overrides = words
    elif words:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    from trainwright.cli.jobs import actions, several

    code: int = getattr(several if hasattr(several, args.action) else actions, args.action)(args)
    return code


def _joined(argv: Sequence[str]) -> list[str]:
    """Return words with `--sort -loss` as one word, which argparse would take for two options."""
    found: list[str] = []
    for word in argv:
        if found and found[-1] == "--sort":
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainwright jobs", description="Jobs: queue, watch, stop, resume, compare.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    json_too = argparse.ArgumentParser(add_help=False)
    json_too.add_argument("--json", action="store_true", help="for machines")

    submit = actions.add_parser(
        "submit", parents=[json_too], help="put a script or a YAML file into the queue",
        usage="trainwright jobs submit FILE [options] [KEY=VALUE ...]",
    )  # fmt: skip
    submit.add_argument("file", type=Path, help="script.py, or run.yaml with KEY=VALUE as for trainwright train")
    submit.add_argument("--name", help="shown in lists (the file's)")
    submit.add_argument("--experiment", default="default", help="a group of jobs (default)")
    submit.add_argument("--param", action="append", default=[], metavar="K=V", help="of a script: --k=v, K alone: --k")
    submit.add_argument("--after", metavar="JOB", help="begin when that one is complete")
    submit.add_argument(
        "--restart", type=at_least(0), default=0, metavar="N", help="go on up to N times when it fails or is lost (0)"
    )
    submit.add_argument("--gpus", type=at_least(0), default=0, help="devices that it needs (0)")

    worker = actions.add_parser("worker", help="run queued jobs until stopped; they go on without it")
    worker.add_argument("--slots", type=at_least(1), default=1, help="jobs at a time (1)")
    worker.add_argument("--gpus", type=_numbers, default=[], help="numbers of the devices to share out: 0,1")
    worker.add_argument("--grace", type=at_least(0.0), default=60.0, help="seconds from a wish to stop to SIGTERM (60)")
    worker.add_argument("--once", action="store_true", help="leave when the queue is empty and all have ended")

    listing = actions.add_parser("list", parents=[json_too], help="all jobs, the newest first")
    listing.add_argument("query", nargs="?", help="only these: 'lr > 1e-4 and loss < 2 and not tag = old'")
    listing.add_argument("--columns", metavar="A,B", help="more of each: parameters, metrics, started, host, folder")
    listing.add_argument("--sort", default="-created", metavar="KEY", help="as a column; -KEY the greatest first")
    listing.add_argument("--group", metavar="KEY", help="those with the same value together")
    listing.add_argument("--status", action="append", type=str.upper, help="only these")
    listing.add_argument("--experiment", help="only of this one")
    listing.add_argument("--limit", type=at_least(1, _MOST), metavar="N", help="at most N (50; with --json all)")
    listing.add_argument("--offset", type=at_least(0, _MOST), default=0, metavar="N", help="without the newest N (0)")
    show = actions.add_parser("show", parents=[json_too], help="what is known of a job")
    show.add_argument("job")
    show.add_argument("--all", action="store_true", help="parameters that are as by default too")
    logs = actions.add_parser("logs", help="what a job printed")
    logs.add_argument("job")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    metrics = actions.add_parser("metrics", parents=[json_too], help="the newest value of every metric, or one in full")
    metrics.add_argument("job")
    metrics.add_argument("name", nargs="?")
    metrics.add_argument(
        "--attempt", type=at_least(1, _MOST), metavar="N", help="of NAME what the job's nth process told (all)"
    )
    compare = actions.add_parser("compare", parents=[json_too], help="parameters that differ, and newest metrics")
    compare.add_argument("jobs", nargs="+")
    _several(actions)
    export = actions.add_parser("export", help="all metrics of jobs as CSV")
    export.add_argument("jobs", nargs="+")
    export.add_argument("-o", "--output", type=Path, help="a file (what is printed)")
    return parser


def _several(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that do something with jobs, several at once."""
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("jobs", nargs="*", help="ids or names")
    which.add_argument("--where", metavar="QUERY", help="all of which this is so: 'status = FAILED and created < 30d'")
    stop = actions.add_parser("stop", parents=[which], help="ask jobs to stop; a training saves first")
    stop.add_argument("--grace", type=at_least(0.0), help="seconds until its worker sends SIGTERM (the worker's)")
    actions.add_parser(
        "resume", parents=[which], help="put jobs that ended back into the queue; they go on where they were"
    )
    actions.add_parser("rm", parents=[which], help="forget jobs and remove their folders (not their outputs elsewhere)")
    tag = actions.add_parser("tag", help="give jobs a tag, or take it away")
    tag.add_argument("tag", help="a word")
    tag.add_argument("jobs", nargs="*", help="ids or names")
    tag.add_argument("--where", metavar="QUERY", help="all of which this is so")
    tag.add_argument("--away", action="store_true", help="take it away")
    note = actions.add_parser("note", help="keep a note with a job")
    note.add_argument("job")
    note.add_argument("text")


def _numbers(text: str) -> list[int]:
    found = [part for part in text.split(",") if part]
    if not all(part.isdecimal() for part in found) or len({*map(int, found)}) < len(found):
        raise JobError(f"--gpus {text!r}: numbers of devices with commas between are expected, each once, such as 0,1.")
    return [int(part) for part in found]
