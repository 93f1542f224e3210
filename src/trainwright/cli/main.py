"""The command line. Commands are imported when they are called, so that `--help` answers at once.

Exit codes: 0 done, 2 the user's mistake and 1 a run that could not end well (one sentence), 1 a fault of ours (with
traceback), 128 + n at signal n, 141 where nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from trainwright import __version__
from trainwright.errors import DivergenceError, Interrupted, SaveError, TrainwrightError, did_you_mean

COMMANDS = {
    "demo": ("tour", "train a small model of Python code in three minutes"),
    "train": ("training", "train what a YAML file describes"),
    "launch": ("training", "train on several processes and machines: here, on Slurm, on Kubernetes"),
    "check": ("training", "look for mistakes in a YAML file, before anything is loaded"),
    "plan": ("training", "tell what each layout of some GPUs needs, and which is best"),
    "init": ("training", "write a commented YAML file to start from"),
    "doors": ("tour", "show how a script's imports of other packages are written here"),
    "examples": ("tour", "list the examples, copy them here"),
    "data": ("training", "show the rows of a YAML file as the model sees them"),
    "compare": ("training", "train the same file with several engines, side by side"),
    "algebra": ("tasks", "make problems of computer algebra, train, and look at a model's answers"),
    "imitation": ("tasks", "record demonstrations, train policies from them, try them"),
    "rl": ("tasks", "look at what a model wrote in reinforcement learning, and what it earned"),
    "jobs": ("jobs", "queue, watch, stop, resume and compare jobs"),
    "sweep": ("jobs", "try values of parameters, a job for each, and see which are best"),
    "alerts": ("jobs", "be told of jobs that fail, are lost or stuck, or of a metric beyond a bound"),
    "ui": ("jobs", "a page of this machine that shows the jobs"),
    "chat": ("after", "talk with a model in the terminal"),
    "generate": ("after", "answer every prompt of a file"),
    "eval": ("after", "measure models on data, several beside each other"),
    "merge": ("after", "merge an adapter into its base"),
    "export": ("after", "write a model for others, with a card, and push it to a hub"),
    "checkpoint": ("after", "write another engine's checkpoint as one that a run goes on from"),
    "replay": ("training", "show the rows that a past step of a run read"),
}
"""Each command's package, and what it does."""
GROUPS = ("examples", "data", "algebra", "imitation", "rl", "jobs", "alerts", "checkpoint")
"""Those that are followed by another one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; quietly where what reads its output, such as `head`, has left."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of jobs and files, whatever the terminal can show
    try:
        try:
            return _main(argv)
        finally:
            print(end="", flush=True)  # so that what cannot be written is noticed here
    except BrokenPipeError as error:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:
            raise  # another pipe
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:
            os.dup2(nowhere, stream.fileno())  # what is left in its buffer goes there
        for note in getattr(error, "__notes__", ()):  # of a training: how to go on with it
            print(note, file=sys.stderr)
        return 128 + signal.SIGPIPE


def _is_unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="trainwright", description="One training engine, and runs that never lose a step."
    )
    parser.add_argument("--version", action="version", version=f"trainwright {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, description=text, add_help=False)
    given = list(sys.argv[1:] if argv is None else argv)
    if not given:
        parser.print_help()
        return 2
    if not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.error(
            f"there is no command '{given[0]}'.{did_you_mean(given[0], COMMANDS)} Known: {', '.join(COMMANDS)}."
        )
    chosen = parser.parse_args(given[:1]).command
    os.environ.setdefault("TQDM_DELAY", "2")  # bars of the libraries: seconds before one is shown
    command = importlib.import_module(f"trainwright.cli.{COMMANDS[chosen][0]}.{chosen}")
    if chosen in GROUPS and not given[1:]:  # the mistake is told by what could be meant
        with suppress(SystemExit):
            command.run(["--help"])
        return 2
    try:
        code: int = command.run(given[1:])
        return code
    except TrainwrightError as error:
        text = str(error)  # the mistakes of a file have lines of their own
        _tell_job(text)
        if not _left_to_the_launcher(error):
            print(text if "\n" in text else f"trainwright {chosen}: {text}", file=sys.stderr)
        return 1 if isinstance(error, SaveError | DivergenceError) else 2
    except Interrupted as stop:
        return 128 + stop.number
    except KeyboardInterrupt:
        return 130


def _tell_job(text: str) -> None:
    """Let the job that this process is, if it is one, know why it will leave."""
    tracking = sys.modules.get("trainwright.jobs.tracking.tracking")
    if tracking is not None and tracking.current() is not None:
        tracking.current().reason = text


def _left_to_the_launcher(error: TrainwrightError) -> bool:
    """Let the launcher that began this process, if one did, know of an error; return whether it says it."""
    verdict = sys.modules.get("trainwright.launching.verdict")
    return verdict is not None and verdict.leave(verdict.of(error))


if __name__ == "__main__":
    sys.exit(main())
