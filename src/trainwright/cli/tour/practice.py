"""`trainwright demo rl`: a model learns derivatives from worked problems, then from a checker, in two runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.checkpoint import layout
from trainwright.errors import ConfigError

if TYPE_CHECKING:
    from trainwright.state import TrainerState

COMMAND = "trainwright demo rl"
FOLDER = Path("runs/demo-rl")
_SEED = "training.seed="
_TOLD = {
    "sft": "1 of 2: a Llama of random weights learns derivatives from 1,000 worked problems.",
    "grpo": "2 of 2: it answers other problems, 8 times each, and learns from the answers that the checker finds right "
    "(GRPO). eval_reward is the share of right answers to 500 problems that it never practises on.",
}


def run(overrides: Sequence[str]) -> int:
    """Train both runs, or go on with what is not complete, and show what practice has come to.

    Args:
        overrides: change both files.
    """
    from trainwright.cli.after.quiet import quiet
    from trainwright.reinforcement import samples
    from trainwright.tasks.practice import show
    from trainwright.tasks.practice.measure import solved
    from trainwright.tasks.practice.start import make_start
    from trainwright.verifiers.algebra import algebra

    if any(word.startswith("training.output_dir=") for word in overrides):
        raise ConfigError(f"demo rl has two runs, both in {FOLDER}; training.output_dir is of one. Leave it out.")
    seed = next((word.removeprefix(_SEED) for word in reversed(overrides) if word.startswith(_SEED)), "42")
    make_start(FOLDER, int(seed))
    left = [name for name in ("sft", "grpo") if not _is_complete(name)]
    for name in left:
        _train(name, overrides)
        if not _is_complete(name):  # it was asked to stop
            return 0
    grpo, history = FOLDER / "grpo", _state(FOLDER / "grpo").log_history
    if not left:
        print(f"Both runs are complete. Start anew with: rm -r {FOLDER} && {COMMAND}")
    before, after = (samples.read(samples.newest(grpo, step, samples.HELD_OUT)) for step in (0, None))
    first, *_, last = show.numbers(history, "eval_reward")
    with quiet():
        greedy = [solved(folder, FOLDER / "unseen.jsonl", algebra) for folder in (FOLDER / "sft", grpo)]
    print("\n".join(show.in_letters(history)))
    print("\nTen problems that neither run has seen, answered by the same random numbers before and after GRPO:\n")
    print("\n".join(show.side_by_side(before, after)))
    print(
        f"\nOf {len(before)} problems never seen {first[1]:.1%} were right after supervised training and {last[1]:.1%} "
        f"are after {last[0]} steps of GRPO, by the checker of the task; each was answered once, by chance as in "
        f"training.\nWhere the likeliest token is always written, it is {greedy[0]:.1%} and {greedy[1]:.1%}.\n"
        f"Curve: {show.draw(FOLDER / 'curve.png', history)}. What was written and earned: trainwright rl show {grpo} "
        "--step 1"
    )
    return 0


def _state(folder: Path) -> TrainerState:
    """Return the state in a run's newest checkpoint; an empty one where there is none."""
    from trainwright.checkpoint.check import newest_valid
    from trainwright.state import TrainerState

    newest, _ = newest_valid(folder)
    return TrainerState() if newest is None else TrainerState.load_from_json(newest / layout.STATE)


def _is_complete(name: str) -> bool:
    """Whether one of the runs has made all of its steps, and its model is saved."""
    state = _state(FOLDER / name)
    return 0 < state.max_steps <= state.global_step and (FOLDER / name / "config.json").is_file()


def _train(name: str, overrides: Sequence[str]) -> None:
    """Train one of the runs, or go on with it."""
    from trainwright.checkpoint.lock import owned
    from trainwright.cli import as_job
    from trainwright.config.composition import built
    from trainwright.config.reading.read import load_checked
    from trainwright.config.reading.writing import keep

    folder = FOLDER / name
    print(_TOLD[name], flush=True)
    with as_file(files("trainwright") / "recipes" / f"demo_{name}.yaml") as recipe:
        config = load_checked(recipe, overrides).config
    with owned(folder) as lock, as_job.running(f"demo-{name}", as_job.changed(config)):
        trainer: Any = built(config)
        trainer.begin_in(lock, lambda: keep(config, folder))
        trainer.trainer.goes_on = shlex.join([*COMMAND.split(), *overrides])
        trainer.train(resume_from_checkpoint=True if _state(folder).global_step else None)
