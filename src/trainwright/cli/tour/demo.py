"""`trainwright demo`, `trainwright demo algebra`: packaged recipes through the same doors as any other run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from trainwright.checkpoint import layout
from trainwright.cli.files import parsed
from trainwright.cli.tour import practice
from trainwright.errors import did_you_mean
from trainwright.tasks.code import twice
from trainwright.world import current_world

_AGAIN = "Start anew with: rm -r {folder} && trainwright demo{name}"
_TEXTS = {
    "code": "a small language model of Python code, from random weights, on Python's own library (the default)",
    "algebra": "derivatives of polynomials by a small transformer, checked by algebra",
    "imitation": "balancing a pole from demonstrations, tried in its environment while it is learned",
    "rl": "derivatives by a small language model: from worked problems, then by GRPO from a checker alone",
}


def run(argv: Sequence[str]) -> int:
    """Train a demo, go on with an interrupted one, or say that it is complete."""
    parser = argparse.ArgumentParser(
        prog="trainwright demo", description="; ".join(f"{name}: {text}" for name, text in _TEXTS.items()),
        usage="trainwright demo [code | algebra | imitation | rl] [--no-kill] [KEY=VALUE ...]\n"
        "       trainwright demo --against transformers",
    )  # fmt: skip
    parser.add_argument(
        "--no-kill", action="store_true", help="code: train in one go; else it is killed once, and goes on by itself"
    )
    parser.add_argument(
        "--against", choices=["transformers"], help="train a small Llama for some steps with both, in turns"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as training.learning_rate=0.003")
    given = list(argv)
    if given and given[0] not in _TEXTS and not {"=", "."} & {*given[0]} and not given[0].startswith("-"):
        parser.error(f"there is no demo '{given[0]}'.{did_you_mean(given[0], _TEXTS)} Known: {', '.join(_TEXTS)}.")
    name = given.pop(0) if given and given[0] in _TEXTS else "code"
    args = parsed(parser, given)
    if args.against and (given := [word for word in argv if word not in ("--against", args.against)]):
        parser.error(f"--against {args.against} trains a script as it is, so '{given[0]}' has no effect; leave it out.")
    if args.no_kill and name != "code":
        parser.error(f"demo {name} is never killed, so --no-kill has no effect; leave it out.")
    if args.against:
        return _against()
    if name == "code":
        return _code(args.overrides, kill=not args.no_kill)
    return {"algebra": _algebra, "imitation": _imitation, "rl": practice.run}[name](args.overrides)


def _finished(folder: Path, name: str) -> bool | None:
    """Whether the run in a folder is complete, which is said then; None where there is none."""
    from trainwright.checkpoint.check import newest_valid
    from trainwright.state import TrainerState

    newest, _ = newest_valid(folder)
    if newest is None:
        return None
    state = TrainerState.load_from_json(newest / layout.STATE)
    if state.global_step < state.max_steps:
        return False
    print(f"This run is complete: {state.global_step} steps, in {folder}/. {_AGAIN.format(folder=folder, name=name)}")
    return True


def _code(overrides: Sequence[str], kill: bool) -> int:
    from trainwright.cli import as_job
    from trainwright.cli.tour import plug
    from trainwright.config.reading.read import load_checked
    from trainwright.config.reading.writing import keep

    with as_file(files("trainwright") / "recipes" / "demo.yaml") as recipe:
        config = load_checked(recipe, overrides).config
    folder = Path(config.training.output_dir or "runs/demo")
    finished = _finished(folder, "")
    if finished:
        return 0
    if kill and current_world().is_alone and twice.last_step(folder) < (middle := config.training.max_steps // 2):
        command = [sys.executable, "-m", "trainwright.cli.main", "demo", "--no-kill", *overrides]
        return plug.train(command, folder, middle)
    from trainwright.callbacks.beginning import BeginningCallback
    from trainwright.checkpoint.lock import owned
    from trainwright.config.composition import build_trainer

    with owned(folder.expanduser()) as lock, as_job.running("demo", *as_job.described(config)):
        trainer = build_trainer(config)
        trainer.add_callback(BeginningCallback(lambda: keep(config, trainer.run_folder)))
        trainer.folder_lock = lock
        trainer.goes_on = shlex.join(["trainwright", "demo", *overrides])
        last = str(trainer.args.max_steps)
        trainer.commands = [shlex.join(["trainwright", "replay", str(folder), "--step", last, "--loss"])]
        trainer.train(resume_from_checkpoint=finished is not None)
    return 0


def _against() -> int:
    from trainwright.upstream import script

    print(
        "The same script with its import changed: a Llama of hidden size 256 and 4 layers, "
        f"{script.BATCH} functions of Python's library a step; {script.STEPS} steps, {script.ROUNDS} rounds in turns.",
        flush=True,
    )
    print(script.table(script.compare()))
    return 0


def _algebra(overrides: Sequence[str]) -> int:
    from trainwright.cli import as_job
    from trainwright.config.reading.writing import by_name
    from trainwright.pipelines.file import read_file, train_file
    from trainwright.pipelines.longer import evaluate_longer
    from trainwright.tasks.algebra import inspect

    with as_file(files("trainwright") / "recipes" / "algebra.yaml") as recipe:
        sections = read_file(recipe, overrides)
        folder = Path(sections["train"]["save_dir"])
        finished = _finished(folder, " algebra")
        if not finished:
            with as_job.running("demo-algebra", by_name(sections)):
                train_file(recipe, overrides, finished is not None, "trainwright demo algebra")
    newest = inspect.newest_results(folder)
    results = inspect.read_results(newest)
    print(inspect.describe(results, wrong=0))
    print(f"\nTen problems that it had never seen, its answers, and what the checker says:\n{inspect.aloud(results)}")
    longer = evaluate_longer(folder, int(newest.stem.partition("_")[2]))
    if longer is not None:
        rows = inspect.read_results(longer)
        right = [sum(one["algebraically_correct"] for one in answers) for answers in (results, rows)]
        print(
            f"\n{right[0]} of {len(results)} such problems are right. Of problems longer than any that it was trained "
            f"on, {right[1]} of {len(rows)} are; the first two:\n{inspect.aloud(rows, 2)}"
        )
    print(f"\nAll answers: {newest.parent}/")
    return 0


def _imitation(overrides: Sequence[str]) -> int:
    from trainwright.cli.tasks.imitation import train
    from trainwright.tasks.imitation.run import read_file
    from trainwright.tasks.imitation.show import draw_returns

    with as_file(files("trainwright") / "recipes" / "imitation.yaml") as recipe:
        sections = read_file(recipe, overrides)
    folder = Path(sections["train"]["output_dir"])
    finished = _finished(folder, " imitation")
    if not finished:
        train(sections, "demo-imitation", finished is not None, "trainwright demo imitation")
    lines, picture = draw_returns(folder, sections["rollout"])
    print("\n".join([*lines, f"Written: {picture}", f"Try it: trainwright imitation eval {folder} --film pole.gif"]))
    return 0
