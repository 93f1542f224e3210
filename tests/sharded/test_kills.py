"""One of two ranks that share a model is killed at random instants; the run goes on and ends as if left alone."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import forked
from tests.reliability import kills
from tests.sharded import victim
from trainwright.checkpoint import layout

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
END = 10**6


def start(place: Path, steps: int) -> forked.Ranks:
    place.mkdir(exist_ok=True)
    return forked.Ranks(["-m", "tests.sharded.victim", place, steps])


def kill_one_again_and_again(place: Path, times: int, seed: int) -> kills.Tally:
    """Kill a rank `times` times, now the first and now the second, and resume each time."""
    chance, tally = random.Random(seed), kills.Tally()
    place.mkdir(exist_ok=True)
    while tally.kills < times:
        before = len(kills.lines(place))
        process = start(place, END)
        kills.wait_for_steps(place, process, before, chance.randint(2 * victim.INTERVAL, 3 * victim.INTERVAL + 1))
        time.sleep(chance.uniform(0, 0.1))
        process.started[chance.randrange(2)].kill()
        done = process.wait(120)
        assert -signal.SIGKILL in done.codes, done.said[-2000:]
        tally.kills += 1
        reached = kills.steps_done(place)
        present = {layout.step_of(path) for path in layout.checkpoints(place)}
        tally.inside_a_save += reached // victim.INTERVAL * victim.INTERVAL not in present
        tally.most_lost = max(tally.most_lost, reached - max(present, default=0))
    return tally


def weights(place: Path, step: int) -> dict[str, torch.Tensor]:
    paths = layout.shares_of(layout.of_step(place, step), layout.WEIGHTS)
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def ends_alike(place: Path, straight: Path) -> bool:
    """Let a run go on to the next save, and one of its own do as many steps; say whether their weights are the same."""
    last = kills.steps_done(place) // victim.INTERVAL * victim.INTERVAL + victim.INTERVAL
    for folder in (place, straight):
        done = start(folder, last).wait()
        assert not any(done.codes), done.said[-2000:]
    one, other = weights(place, last), weights(straight, last)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_rank_that_is_killed_costs_an_interval_at_most(tmp_path):
    """And the steps that were trained while a save was written: here less than another interval."""
    tally = kill_one_again_and_again(tmp_path / "run", 1, seed=0)
    assert tally.most_lost <= 2 * victim.INTERVAL
    assert ends_alike(tmp_path / "run", tmp_path / "straight")
