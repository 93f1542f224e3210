"""`trainwright imitation record`, `train FILE`, `eval RUN`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.cli.files import parsed, to_write
from trainwright.cli.numbers import at_least


def run(argv: Sequence[str]) -> int:
    """Record demonstrations, train a policy from them, or try one in its environment."""
    parser = argparse.ArgumentParser(prog="trainwright imitation", description="Policies from demonstrations.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("record", help="write demonstrations of a scripted or random expert")
    make.add_argument("--env", required=True, help="such as CartPole-v1")
    make.add_argument("--expert", default="scripted", help="scripted or random (scripted)")
    make.add_argument("--episodes", type=at_least(1), default=20, help="how many (20)")
    make.add_argument("--seed", type=at_least(0), default=0, help="of the first; episode n begins from seed + n (0)")
    make.add_argument("-o", "--output", type=Path, required=True, help="an .npz file")
    train = actions.add_parser("train", help="train what a YAML file describes")
    train.add_argument("file", type=Path, help="with the sections data, policy, train and rollout")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.learning_rate=1e-3")
    train.add_argument("--resume", action="store_true", help="go on with the run in train.output_dir")
    look = actions.add_parser("eval", help="try a run's policy in its environment")
    look.add_argument("run", type=Path, help="the run's folder, or one of its checkpoints")
    look.add_argument("--episodes", type=at_least(1), help="how many (the run's)")
    look.add_argument("--seed", type=at_least(0), help="of the first (the run's)")
    look.add_argument("--film", type=Path, help="write the first episode as a GIF")
    args = parsed(parser, argv)
    return {"record": _record, "train": _train, "eval": _eval}[args.action](args)


def _record(args: argparse.Namespace) -> int:
    import numpy as np

    from trainwright.errors import ConfigError
    from trainwright.tasks.imitation.episodes import write_npz
    from trainwright.tasks.imitation.experts import record

    if to_write(args.output).suffix != ".npz":
        raise ConfigError(f"--output '{args.output}': demonstrations are written as .npz; give such a name.")
    episodes = list(record(args.env, args.expert, args.episodes, args.seed))
    write_npz(args.output, episodes, {"env": args.env, "expert": args.expert, "seed": args.seed})
    mean = np.mean([one.about["return"] for one in episodes])
    steps = sum(map(len, episodes))
    print(f"{args.output}: {len(episodes)} episodes of {args.env}, {steps} steps, mean return {mean:.1f}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from trainwright.tasks.imitation.run import read_file

    sections = read_file(args.file, args.overrides)
    again = shlex.join(["trainwright", "imitation", "train", str(args.file), *args.overrides, "--resume"])
    train(sections, args.file.stem, args.resume, again)
    return 0


def train(sections: dict[str, Any], name: str, resume: bool, goes_on: str) -> Any:
    """Train what sections describe, as a job that a command goes on with; return the Trainer.

    Raises:
        ConfigError: the run's folder holds another one.
    """
    import yaml

    from trainwright.callbacks.beginning import BeginningCallback
    from trainwright.checkpoint.layout import holds_any
    from trainwright.checkpoint.lock import owned
    from trainwright.cli import as_job
    from trainwright.config.reading.writing import write_whole
    from trainwright.errors import ConfigError
    from trainwright.jobs import paths
    from trainwright.tasks.imitation.run import RUN_FILE, build, check_unchanged, folder_of

    resume, folder = resume or paths.resumes(), folder_of(sections)
    flat = {f"{part}.{key}": value for part, keys in sections.items() for key, value in keys.items()}
    plain = {key: v for key, v in flat.items() if isinstance(v, str | int | float | bool)}
    text = yaml.safe_dump(sections, sort_keys=False)
    with owned(folder) as lock, as_job.running(name, plain):
        there = holds_any(folder)
        if there and not resume:
            raise ConfigError(
                f"train.output_dir '{folder}' holds another run. --resume goes on with it; else give another folder: "
                "train.output_dir=FOLDER."
            )
        if resume:
            check_unchanged(sections)
        trainer = build(sections)
        trainer.goes_on, trainer.folder_lock = goes_on, lock
        trainer.add_callback(BeginningCallback(lambda: write_whole(folder / RUN_FILE, text)))
        try:
            trainer.train(resume_from_checkpoint=True if there else None)
            trainer.save_model(str(folder))
        finally:
            if trainer.rollouts is not None:
                trainer.rollouts.close()
    return trainer


def _eval(args: argparse.Namespace) -> int:
    if args.film:
        to_write(args.film)
    from trainwright.errors import ConfigError
    from trainwright.tasks.imitation.loading import load_policy
    from trainwright.tasks.imitation.rollout import Rollouts, summary
    from trainwright.tasks.imitation.run import RUN_FILE, read_file

    home = next((one for one in (args.run, args.run.parent) if (one / RUN_FILE).is_file()), None)
    if home is None or not args.run.is_dir():
        raise ConfigError(
            f"'{args.run}' is neither the folder of a run, which holds {RUN_FILE}, nor a checkpoint in one."
        )
    given = dict(read_file(home / RUN_FILE).get("rollout") or {})
    if not given:
        raise ConfigError(f"'{home / RUN_FILE}' names no environment in its section rollout.")
    changes = {name: getattr(args, name) for name in ("episodes", "seed") if getattr(args, name) is not None}
    rollouts = Rollouts(**{**given, **changes, "film": 1 if args.film else 0})
    policy = load_policy(args.run)
    results = rollouts.run(policy)
    rollouts.close()
    for one in results:
        won = {True: "  success", False: "  no success", None: ""}[one.success]
        print(f"seed {one.seed}  return {one.total:.2f}  steps {one.length}{won}")
    found = summary(results, "mean")
    print("  ".join(f"{name.removeprefix('mean_')} {value:.4g}" for name, value in found.items()))
    if args.film:
        rollouts.record_film(policy, args.film)
        print(f"Written: {args.film}")
    return 0
