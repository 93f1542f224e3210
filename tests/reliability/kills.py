"""Kills a run at random instants and goes on with it; used by the tests, and by `make torture` for long."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import forked
from trainwright.checkpoint import layout


@dataclass
class Tally:
    """What came of the kills: how many, how many inside a save, the most steps lost, what went wrong."""

    kills: int = 0
    inside_a_save: int = 0
    most_lost: int = 0
    failures: int = 0


def start(place: Path, given: dict[str, Any]) -> forked.Python:
    """Start or resume the run in a process of its own."""
    return forked.Python(["-m", "tests.reliability.victim", place, json.dumps(given)])


def lines(place: Path) -> list[list[str]]:
    """Return the words of every line of the run's log."""
    log = place / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def steps_done(place: Path) -> int:
    """Return the number of the step done last."""
    return next((int(words[1]) for words in reversed(lines(place)) if words[0] == "step"), 0)


def wait_for_steps(place: Path, process: forked.Python | forked.Ranks, beyond: int, count: int) -> None:
    """Wait until `count` lines of steps after line number `beyond` are in the log, or the process has ended."""
    while process.poll() is None and sum(words[0] == "step" for words in lines(place)[beyond:]) < count:
        time.sleep(0.005)


def kill_again_and_again(place: Path, given: dict[str, Any], kills: int, seed: int) -> Tally:
    """Kill the run `kills` times with SIGKILL, resuming it each time; every start must find a way on."""
    chance, tally = random.Random(seed), Tally()
    interval = given["settings"]["save_steps"]
    while tally.kills < kills:
        before = len(lines(place))
        process = start(place, given)
        wait_for_steps(place, process, before, chance.randint(2 * interval, 3 * interval + 1))
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1]
        if process.returncode != -signal.SIGKILL:
            tally.failures += 1
            raise AssertionError(f"the run could not go on after {tally.kills} kills: {errors[-2000:]}")
        tally.kills += 1
        done = steps_done(place)
        present = {layout.step_of(path) for path in layout.checkpoints(place)}
        tally.inside_a_save += done // interval * interval not in present
        tally.most_lost = max(tally.most_lost, done - max(present, default=0))
        written = [int(words[1].split("-")[1]) for words in lines(place) if words[0] == "written"]
        assert max(written, default=0) <= max(present, default=0), "a checkpoint that was written is gone"
    return tally
