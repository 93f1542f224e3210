"""The long form, `make torture`: 100 kills and 30 SIGTERMs, and every run ends as if it had not been touched."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.reliability import kills, victim
from tests.reliability.test_kills import WIDTH
from trainwright.checkpoint import check, folder

KILLS = 26
CONFIGURATIONS = ((False, 1, None), (False, 2, 2), (False, 1, 1), (True, 1, 1))


def compare(place: Path, settings: dict, width: int) -> bool:
    """Finish the run and say whether it is bitwise the run that was left alone."""
    reached = folder.step_of(folder.checkpoints(place)[-1])
    settings = {**settings, "max_steps": reached + 3}
    resumed = victim.run(place, settings, width=width)
    straight = victim.run(place / "straight", {**settings, "save_strategy": "no"}, width=width)
    pairs = zip(resumed.model.parameters(), straight.model.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def kill() -> bool:
    """Kill runs in every configuration; print a line for each."""
    fine = True
    for foreign, interval, limit in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as name:
            settings = {"max_steps": 10**6, "save_steps": interval, "save_total_limit": limit}
            given = {"settings": settings, "width": WIDTH, "foreign": foreign}
            tally = kills.kill_again_and_again(Path(name), given, KILLS, seed=interval)
            same = compare(Path(name), settings, WIDTH)
            mode = "synchronous" if foreign else "background"
            print(
                f"{mode}, save_steps={interval}, save_total_limit={limit}: {tally.kills} kills, {tally.inside_a_save} "
                f"inside a save, {tally.failures} failed resumes, at most {tally.most_lost} steps lost, "
                f"{'bitwise the same end' if same else 'ANOTHER END'}",
                flush=True,
            )
            fine = fine and same and tally.most_lost <= interval * (1 if foreign else 2)
    return fine


def terminate(times: int = 30) -> bool:
    """Send SIGTERM at random instants; nothing may be lost."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        settings = {"max_steps": 10**6, "save_steps": 7, "eval_strategy": "steps", "eval_steps": 4}
        for _ in range(times):
            before = len(kills.lines(place))
            process = kills.start(place, {"settings": settings, "pause": 0.002})
            kills.wait_for_steps(place, process, before, chance.randint(1, 9))
            time.sleep(chance.uniform(0, 0.05))
            process.terminate()
            process.communicate(timeout=60)
            if process.returncode != 128 + signal.SIGTERM:
                print(f"exit code {process.returncode} after SIGTERM")
                return False
            newest = check.newest_valid(place)[0]
            if newest is None or folder.step_of(newest) != kills.steps_done(place):
                print(f"step {kills.steps_done(place)} was done, and {newest} saved")
                return False
        done = [int(words[1]) for words in kills.lines(place) if words[0] == "step"]
        same = compare(place, settings, 0) and done == list(range(1, len(done) + 1))
        print(f"{times} SIGTERMs in {len(done)} steps: {'nothing lost, bitwise the same end' if same else 'LOST'}")
        return same


if __name__ == "__main__":
    sys.exit(0 if kill() and terminate() else 1)
