"""The demo's plug: the training runs in a process of its own, which is killed once in its middle and begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from trainwright.checkpoint import layout
from trainwright.errors import STOP_SIGNALS
from trainwright.jobs import paths
from trainwright.tasks.code.twice import last_step

AGAIN = 20  # steps after a save, at least, which are done twice
_LOOK_SECONDS = 0.05
_SHOW_CURSOR = "\x1b[?25h"  # which a bar that is killed has hidden


def train(command: Sequence[str], folder: Path, middle: int) -> int:
    """Run a command that trains, kill it once after its middle, and run it again; return the exit code of the last.

    Both are one job, and in the group of this process, so that Ctrl-C and what else a terminal sends reaches them too.

    Args:
        command: begins, or goes on with, the run in `folder`.
        folder: of the run.
        middle: it is killed as soon as `AGAIN` steps after a save at this step or a later one have told their loss.
    """
    inside = paths.JOB_ID in os.environ or paths.OWNER in os.environ
    job = {} if inside else {paths.JOB_ID: paths.new_id(), paths.ATTEMPT: "1"}
    heard: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if children and not (number == signal.SIGINT and _is_in_foreground()):
            children[-1].send_signal(number)

    def begin() -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen(command, env={**os.environ, **job}))
        for number in heard:
            children[-1].send_signal(number)
        return children[-1]

    with _listening(hear):
        child = begin()
        if _kill_in_the_middle(child, folder, middle, heard):
            if not inside:
                job[paths.ATTEMPT] = "2"
            child = begin()
        code = child.wait()
    return 128 - code if code < 0 else code


@contextmanager
def _listening(hear: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a function hear the signals that ask a process to stop, but those that are ignored."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """Whether Ctrl-C of a terminal comes to this process, and so to its child too."""
    return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def _kill_in_the_middle(child: subprocess.Popen[bytes], folder: Path, middle: int, heard: Sequence[int]) -> bool:
    """Watch a child until it ends or is killed here; return whether it was. A signal to stop lets it end by itself."""
    while child.poll() is None:
        time.sleep(_LOOK_SECONDS)
        if heard or not _is_due(folder, middle):
            continue
        child.send_signal(signal.SIGSTOP)  # nothing changes while we look again
        if not _is_due(folder, middle):
            child.send_signal(signal.SIGCONT)
            continue
        bar = f"\n{_SHOW_CURSOR}" if sys.stdout.isatty() else ""
        print(
            f"{bar}Now we pull the plug: SIGKILL after step {last_step(folder)}. The last save is that of step "
            f"{_last_save(folder)}; the same command goes on from there.",
            flush=True,
        )
        child.send_signal(signal.SIGKILL)
        child.wait()
        return not heard
    return False


def _is_due(folder: Path, middle: int) -> bool:
    saved = _last_save(folder)
    return saved >= middle and last_step(folder) - saved >= AGAIN


def _last_save(folder: Path) -> int:
    """Return the step of the newest checkpoint that is whole; 0 where there is none."""
    whole = [layout.step_of(path) for path in layout.checkpoints(folder) if (path / layout.MANIFEST).exists()]
    return max(whole, default=0)
