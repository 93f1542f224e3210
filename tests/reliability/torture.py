"""The long form, `make torture`: kills, signals, random stops, hooks and calls that fail, full disks; every run ends as
if left alone. And algebra's checkers on many answers, properties on many inputs."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.launching import machines as two_machines
from tests.reliability import errnos, kills, neighbour, open_page, test_hooks, test_signals, victim
from tests.reliability import pairs as drawn_pairs
from tests.reliability.test_command_line import Command, write_source
from tests.reliability.test_kills import WIDTH
from tests.sharded import test_kills as one_rank
from tests.sharded.victim import INTERVAL
from tests.tasks.algebra import held
from trainwright.checkpoint import check, layout
from trainwright.errors import STOP_SIGNALS
from trainwright.tasks.algebra.problems import TASKS

KILLS = 26
CONFIGURATIONS = ((False, 1, None), (False, 2, 2), (False, 1, 1), (True, 1, 1))


def compare(place: Path, settings: dict, width: int) -> bool:
    """Finish the run and say whether it is bitwise the run that was left alone."""
    reached = layout.step_of(layout.checkpoints(place)[-1])
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
            process.communicate(timeout=300)
            if process.returncode != 128 + signal.SIGTERM:
                print(f"exit code {process.returncode} after SIGTERM")
                return False
            newest = check.newest_valid(place)[0]
            if newest is None or layout.step_of(newest) != kills.steps_done(place):
                print(f"step {kills.steps_done(place)} was done, and {newest} saved")
                return False
        done = [int(words[1]) for words in kills.lines(place) if words[0] == "step"]
        same = compare(place, settings, 0) and done == list(range(1, len(done) + 1))
        print(f"{times} SIGTERMs in {len(done)} steps: {'nothing lost, bitwise the same end' if same else 'LOST'}")
        return same


def kill_ranks(times: int = 20) -> bool:
    """Kill one of two ranks that share a model, at random instants."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "run"
        tally = one_rank.kill_one_again_and_again(place, times, seed=0)
        same = one_rank.ends_alike(place, Path(name) / "straight")
        print(
            f"sharded over two ranks, save_steps={INTERVAL}: {tally.kills} kills of one, {tally.inside_a_save} inside "
            f"a save, at most {tally.most_lost} steps lost, {'bitwise the same end' if same else 'ANOTHER END'}",
            flush=True,
        )
        return same and tally.most_lost <= 2 * INTERVAL


def machines() -> bool:
    """Kill one of two machines whole, and let it come back."""
    with tempfile.TemporaryDirectory() as name:
        moves = two_machines.leave_and_join(Path(name))
        print(
            f"two machines: after {moves.left:.1f} s one trains alone, {moves.lost} steps done twice; after "
            f"{moves.joined:.1f} s two again, {moves.lost_at_joining} steps done twice",
            flush=True,
        )
        return moves.lost <= 2 * two_machines.INTERVAL and moves.lost_at_joining == 0


def signals(times: int = 30) -> bool:
    """Send signals of all kinds, twice, to the tracked command line at random instants; nothing may be lost."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_source(place)
        more = ["training.lr_scheduler_type=constant", "training.eval_steps=300", "training.save_steps=300"]
        for number in (STOP_SIGNALS * times)[:times]:
            run = Command(place, resume=(place / "out").exists(), more=more)
            time.sleep(chance.uniform(0, 0.5))
            for _ in range(2):
                run.python.send_signal(number)
            code, step = run.ended()
            newest = check.newest_valid(place / "out")[0]
            if code != 128 + number or newest is None or not layout.step_of(newest) == step == run.step():
                print(f"{signal.Signals(number).name}: exit code {code} after step {run.step()}, and {newest} saved")
                return False
        settings = [*more, f"training.max_steps={step + 3}"]
        for out, resume in (("out", True), ("straight", False)):
            Command(place, resume=resume, more=[*settings, f"training.output_dir={out}"], waits=False).wrapper.wait()
        ends = [load_file(place / out / f"checkpoint-{step + 3}" / "model.safetensors") for out in ("out", "straight")]
        same = all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
        told = "nothing lost, bitwise the same end" if same else "ANOTHER END"
        print(f"{times} signals of {len(STOP_SIGNALS)} kinds to the command line in {step} steps: {told}", flush=True)
        return same


def hooks(afters: Sequence[int] = range(1, 11)) -> bool:
    """Let every hook of a user's code fail, after every number of steps; the run goes on as if it had not failed."""
    logging.disable()
    failed = []
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        straight = test_hooks.made(Path(name) / "straight")
        straight.train()
        for hook, after in itertools.product(test_hooks.HOOKS, afters):
            place = Path(name) / f"{hook}-{after}"
            with contextlib.suppress(ValueError):  # what is not called any more does not fail
                test_hooks.made(place, hook, after, ValueError("what the user wrote")).train()
            resumed = test_hooks.made(place, seed=99)
            resumed.train(resume_from_checkpoint=True)
            pair = (resumed, straight)
            if not test_signals.same(*pair) or test_signals.history(resumed) != test_signals.history(straight):
                failed.append(f"{hook} after step {after}")
            shutil.rmtree(place)
    logging.disable(logging.NOTSET)
    told = f"ANOTHER END: {', '.join(failed)}" if failed else "all bitwise the same end"
    print(f"{len(test_hooks.HOOKS)} hooks that fail, after each of {len(afters)} steps: {told}", flush=True)
    return not failed


def fault_of(seed: int) -> str | None:
    """Return in what the two runs of a pair differ, or None."""
    logging.disable()
    torch.set_num_threads(1)
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return drawn_pairs.fault(drawn_pairs.drawn(seed), Path(name))


def pairs(count: int = 500, among_ranks: int = 50) -> bool:
    """Stop and resume runs that are drawn, some of them on another number of ranks; they end as if left alone."""
    alone, together = range(count - among_ranks), range(10_000, 10_000 + among_ranks)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = {seed: told for seed, told in zip(alone, pool.map(fault_of, alone, chunksize=8), strict=True) if told}
    with tempfile.TemporaryDirectory() as name:
        chosen = [drawn_pairs.drawn(seed, ranks=True) for seed in together]
        found |= drawn_pairs.faults_among_ranks(chosen, Path(name))
    for seed, told in found.items():
        print(f"pair {seed}: {told[:500]}")
    said = f"{len(found)} with ANOTHER END" if found else "all the same end"
    print(f"{count} pairs, {among_ranks} of them among ranks: {said}", flush=True)
    return not found


def fill(times: int = 20, width: int = 1024) -> bool:
    """Fill the disk of a run at random instants and make room again; it must go on, and lose nothing in the end."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        disk, log = Path(name) / "disk", Path(name) / "log"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", disk], capture_output=True, text=True
        )
        if mounted.returncode:
            print(f"Full disks: skipped, as a tmpfs cannot be mounted here ({mounted.stderr.strip()})")
            return True
        try:
            place = disk / "run"
            place.mkdir()
            (place / "log").symlink_to(log)  # the test's own, not on the disk that is full
            settings = {"max_steps": 10**6, "save_steps": 5, "save_total_limit": 2}
            process = kills.start(place, {"settings": settings, "width": width, "pause": 0.02})
            kills.wait_for_steps(place, process, 0, 11)
            for _ in range(times):
                time.sleep(chance.uniform(0, 0.5))
                neighbour.fill(disk / "other")
                time.sleep(chance.uniform(0, 0.5))
                (disk / "other").unlink()
            process.terminate()
            failed = process.communicate(timeout=300)[1].count("could not be written")
            newest, steps = check.newest_valid(place)[0], kills.steps_done(place)
            if process.returncode != 128 + signal.SIGTERM or newest is None or layout.step_of(newest) != steps:
                print(f"Full disks: exit code {process.returncode} at step {steps}, and {newest} saved")
                return False
            same = compare(place, settings, width)
            told = "bitwise the same end" if same else "ANOTHER END"
            print(f"{times} full disks in {steps} steps: {failed} saves failed, {told}", flush=True)
            return same
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)  # this process has its log open


def fail_calls() -> bool:
    """Let every call of a save fail, with every error."""
    done = errnos.run(share=1)
    if isinstance(done, str):
        print(f"Failing calls: skipped, {done}")
        return True
    print(done.stdout.strip() or done.stderr[-2000:], flush=True)
    return done.returncode == 0


def alive(place: Path, seconds: float) -> tuple[float, int]:
    """Let the run train for some seconds, kill it, and return those seconds and its new steps."""
    before, steps = len(kills.lines(place)), kills.steps_done(place)
    process = kills.start(place, {"settings": {"max_steps": 10**7, "save_steps": 25, "save_total_limit": 2},
                                  "width": WIDTH, "pause": 0.01})  # fmt: skip
    while process.poll() is None and len(kills.lines(place)) == before:
        time.sleep(0.005)
    began = time.monotonic()
    time.sleep(seconds)
    process.kill()
    trained = time.monotonic() - began
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors[-2000:]
    return trained, kills.steps_done(place) - steps


def goodput(seconds: float = 600, every: float = 30) -> bool:
    """Kill a run again and again; it must do 95 % of the steps that it does undisturbed in the time that it trains.

    Reading the checkpoint, saving, and steps that are done again count against it; the start of Python does not.
    """
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as quiet:
        trained, steps = alive(Path(quiet), 2 * every)
        rate, lives = steps / trained, []
        while sum(span for span, _ in lives) < seconds:
            lives.append(alive(Path(name), chance.uniform(0.5, 1.5) * every))
        share = kills.steps_done(Path(name)) / (rate * sum(span for span, _ in lives))
        print(f"{len(lives)} kills, one in {every:g} s: {share:.1%} of the steps of a run left alone", flush=True)
        return share >= 0.95


def checkers(count: int = 10_000) -> bool:
    """Hold every checker of algebra against sympy and FLINT; print a line for each."""
    fine = True
    with ProcessPoolExecutor() as pool:
        for name, tally in zip(TASKS, pool.map(held.compare, TASKS, itertools.repeat(count)), strict=True):
            told = f"all as sympy and FLINT, the longest in {tally.longest * 1000:.0f} ms"
            told = f"{len(tally.wrong)} OTHERWISE: {tally.wrong[0]}" if tally.wrong else told
            print(f"{name}: {count} answers, {tally.right} right, {told}", flush=True)
            fine = fine and not tally.wrong
    return fine


def properties() -> bool:
    """Run the tests that draw their inputs, with many new ones."""
    wanted = [sys.executable, "-m", "pytest", "-m", "hypothesis"]
    return subprocess.run(wanted, env={**os.environ, "HYPOTHESIS_PROFILE": "torture"}).returncode == 0


def page() -> bool:
    """Open the page beside 10,000 jobs; left alone it takes less than 2 % of a core of its server."""
    with tempfile.TemporaryDirectory() as name:
        found = open_page.cost(Path(name))
    if found is None:
        print("The page: skipped, as there is no Chromium or no playwright", flush=True)
        return True
    print(
        f"The page beside 10,000 jobs: there after {found.first:.2f} s, {found.sent:,} bytes; idle {found.server:.1f} "
        f"% of a core, Chromium {found.browser:.1f} %; a curve of a million points after {found.curve:.2f} s",
        flush=True,
    )
    return found.server < 2 and found.sent < 1_000_000


if __name__ == "__main__":
    chosen = (
        kill,
        kill_ranks,
        machines,
        terminate,
        signals,
        pairs,
        hooks,
        fill,
        fail_calls,
        goodput,
        page,
        checkers,
        properties,
    )
    parts = {part.__name__: part for part in chosen}
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.torture", description=__doc__)
    parser.add_argument(
        "part", nargs="*", choices=[*parts, []], metavar="PART", help=f"all, or some of: {', '.join(parts)}"
    )
    wanted = parser.parse_args().part or parts
    sys.exit(0 if all(parts[name]() for name in wanted) else 1)
