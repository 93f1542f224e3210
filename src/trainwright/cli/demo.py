"""`trainwright demo`, `trainwright demo algebra`: packaged recipes through the same doors as any other run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

_AGAIN = "Start anew with: rm -r {folder} && trainwright demo{name}"
_TEXTS = {
    "code": "a small language model of Python code, from random weights, on Python's own library (the default)",
    "algebra": "derivatives of polynomials by a small transformer, checked by algebra",
    "imitation": "balancing a pole from demonstrations, tried in its environment while it is learned",
}


def run(argv: Sequence[str]) -> int:
    """Train a demo, go on with an interrupted one, or say that it is complete."""
    parser = argparse.ArgumentParser(
        prog="trainwright demo", description="; ".join(f"{name}: {text}" for name, text in _TEXTS.items()),
        usage="trainwright demo [code | algebra | imitation] [KEY=VALUE ...]",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as training.learning_rate=0.003")
    given = list(argv)
    name = given.pop(0) if given and given[0] in _TEXTS else "code"
    args = parser.parse_args(given)
    return {"code": _code, "algebra": _algebra, "imitation": _imitation}[name](args.overrides)


def _finished(folder: Path, name: str) -> bool | None:
    """Whether the run in a folder is complete, which is said then; None where there is none."""
    from trainwright.checkpoint.check import newest_valid
    from trainwright.state import TrainerState

    newest, _ = newest_valid(folder)
    if newest is None:
        return None
    state = TrainerState.load_from_json(newest / "trainer_state.json")
    if state.global_step < state.max_steps:
        return False
    print(f"This run is complete: {state.global_step} steps, in {folder}/. {_AGAIN.format(folder=folder, name=name)}")
    return True


def _code(overrides: Sequence[str]) -> int:
    from trainwright.cli import as_job
    from trainwright.config.build import build_trainer
    from trainwright.config.load import keep, load_checked

    with as_file(files("trainwright") / "recipes" / "demo.yaml") as recipe:
        config = load_checked(recipe, overrides).config
    finished = _finished(Path(config.training.output_dir or "runs/demo"), "")
    if finished:
        return 0
    with as_job.running("demo", as_job.changed(config)):
        trainer = build_trainer(config)
        keep(config, trainer.run_folder)
        trainer.train(resume_from_checkpoint=finished is not None)
    return 0


def _algebra(overrides: Sequence[str]) -> int:
    from trainwright.cli import as_job
    from trainwright.cli.algebra import show
    from trainwright.pipelines.file import read_file, train_file

    with as_file(files("trainwright") / "recipes" / "algebra.yaml") as recipe:
        folder = Path(read_file(recipe, overrides)["train"]["save_dir"])
        finished = _finished(folder, " algebra")
        if not finished:
            with as_job.running("demo-algebra", dict(word.split("=", 1) for word in overrides)):
                train_file(recipe, overrides, resume=finished is not None)
    show(folder)
    return 0


def _imitation(overrides: Sequence[str]) -> int:
    from trainwright.cli.imitation import train
    from trainwright.tasks.imitation.run import read_file
    from trainwright.tasks.imitation.show import draw_returns

    with as_file(files("trainwright") / "recipes" / "imitation.yaml") as recipe:
        sections = read_file(recipe, overrides)
    folder = Path(sections["train"]["output_dir"])
    finished = _finished(folder, " imitation")
    if not finished:
        train(sections, "demo-imitation", resume=finished is not None)
    lines, picture = draw_returns(folder, sections["rollout"])
    print("\n".join([*lines, f"Written: {picture}", f"Try it: trainwright imitation eval {folder} --film pole.gif"]))
    return 0
