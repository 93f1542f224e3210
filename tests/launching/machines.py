"""Two machines that are this one: one is killed whole, and comes back; a script's run goes on each time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).parent / "script.py")
INTERVAL = 4  # steps between the script's saves


@dataclass
class Moves:
    """Seconds from a machine's end, or its return, to the next step, and the steps that were done twice."""

    left: float
    lost: int
    joined: float
    lost_at_joining: int


def lines(place: Path, rank: int = 0) -> list[tuple[int, ...]]:
    """Return (step, process) of every step that a rank did."""
    log = place / "run" / f"steps{rank}"
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def machine(place: Path, port: int) -> subprocess.Popen[bytes]:
    """Start one machine's part of the run, in a session of its own."""
    command = [sys.executable, "-m", "trainwright.cli.main", "launch", SCRIPT, "--nodes", "1:2", "--processes", "1"]
    command += ["--rendezvous", f"localhost:{port}", "run", "1000000", "0.05"]
    known = {**os.environ, "TRAINWRIGHT_HOME": str(place / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (place / "log").open("a") as log:
        return subprocess.Popen(command, cwd=place, env=known, stdout=log, stderr=log, start_new_session=True)


def leave_and_join(place: Path) -> Moves:
    """Let two machines train, kill the second, let it come back; end both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    first, second = (machine(place, port) for _ in range(2))
    try:
        _wait(lambda: len(lines(place, 1)) > 2 * INTERVAL)
        alone = {pid for _, pid in lines(place)}
        os.killpg(second.pid, signal.SIGKILL)
        for _, pid in lines(place, 1)[-1:]:
            _end(pid)
        left, lost = _goes_on(place, alone)
        _wait(lambda: len(lines(place)) % 50 > 20)
        alone, others = {pid for _, pid in lines(place)}, len(lines(place, 1))
        second = machine(place, port)
        joined, again = _goes_on(place, alone)
        _wait(lambda: len(lines(place, 1)) > others)
        return Moves(left, lost, joined, again)
    finally:
        for one in (first, second):
            one.send_signal(signal.SIGTERM)
        for one in (first, second):
            one.wait(timeout=120)


def _goes_on(place: Path, before: set[int]) -> tuple[float, int]:
    """Wait for the first step of a process that was not there before; return the seconds, and steps done twice."""
    began = time.monotonic()
    _wait(lambda: lines(place)[-1][1] not in before)
    done = lines(place)
    new = next(number for number, (_, pid) in enumerate(done) if pid not in before)
    return time.monotonic() - began, max(step for step, _ in done[:new]) - done[new][0] + 1


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _wait(what, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(0.05)
