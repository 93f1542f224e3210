"""`trainwright train run.yaml training.max_steps=100`"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainwright.errors import ConfigError
from trainwright.launching.work import AGAIN

if TYPE_CHECKING:
    from trainwright.config.params import TrainingParams
    from trainwright.config.schema import TrainingConfig

_USAGE = """trainwright train FILE [--resume | --new | --overwrite] [--shard N|auto] [--tensor N]
                         [KEY=VALUE ...]
       trainwright train --resume FOLDER"""


def run(argv: Sequence[str]) -> int:
    """Train what a file describes, in a folder of its own; or go on with a run."""
    parser = argparse.ArgumentParser(
        prog="trainwright train", usage=_USAGE, description="Train what a YAML file describes."
    )
    parser.add_argument("-c", "--config", type=Path, help="the run's YAML file; -c may be left out")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--resume", nargs="?", const=True, metavar="FOLDER", help="go on from the newest checkpoint")
    way.add_argument("--new", action="store_true", help="a new folder beside one that holds a run")
    way.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    parser.add_argument("--shard", metavar="N|auto", help="processes that share one copy of the model (FSDP)")
    parser.add_argument("--tensor", metavar="N", help="processes that compute each layer together (tensor parallelism)")
    args, overrides = parser.parse_known_args(argv)
    overrides += _layout(args.shard, args.tensor)
    if isinstance(args.resume, str) and ("=" in args.resume or Path(args.resume).suffix in (".yaml", ".yml")):
        args.resume, overrides = True, [args.resume, *overrides]

    from trainwright.cli import as_job, files, folders
    from trainwright.config.reading.writing import RUN_CONFIG
    from trainwright.jobs import paths

    args.config, overrides = files.file_among(args.config, overrides)
    if isinstance(args.resume, str):
        overrides = [f"training.output_dir={args.resume}", *overrides]
    elif args.config is None:
        raise ConfigError("Give FILE to train what a file describes, or --resume FOLDER to go on with a run.")
    if args.config is None:
        args.config = Path(args.resume) / RUN_CONFIG
        if not args.config.is_file():
            above = Path(args.resume).parent
            hint = f" Give '{above}': its newest checkpoint is gone on from." if (above / RUN_CONFIG).is_file() else ""
            raise ConfigError(f"'{args.resume}' is no run's folder: it holds no {RUN_CONFIG}.{hint}")
    if args.resume:  # where the run began is not read any more
        overrides = ["training.resume_from_checkpoint=null", *overrides]
    config = _configured(args.config, overrides, args.shard == "auto")
    file: Path = args.config
    params, begun_again = config.training, paths.resumes()
    if args.new or args.overwrite:
        params.try_resume_from_last_checkpoint = False
    folders.choose(config, args.config, bool(args.resume or begun_again), args.new)
    name = Path(args.resume).resolve().name if isinstance(args.resume, str) else args.config.stem
    with folders.owned(params, bool(args.resume or begun_again or args.overwrite)) as lock:
        folders.announce(config, args.config)

        from trainwright.config.composition import ConfiguredTrainer, built, newest, starting_point

        job = folders.job_of(params) if args.resume else None
        with as_job.running(params.run_name or name, *as_job.described(config), job):
            trainer = built(config)
            goes_on = args.resume or (begun_again and newest(params))
            start = True if goes_on else starting_point(params)
            trainer.begin_in(lock, lambda: folders.describe(config, file, argv, bool(start)))
            if isinstance(trainer, ConfiguredTrainer):
                folder = shlex.quote(str(params.output_dir))
                again = os.environ.get(AGAIN) or f"trainwright train --resume {folder}"
                trainer.trainer.goes_on = again
                trainer.trainer.commands = [f"{again} training.max_steps=MORE", *after(params, folder)]
            trainer.train(resume_from_checkpoint=start)
    return 0


def _layout(shard: str | None, tensor: str | None) -> list[str]:
    """Return what asks for the layout of the command line, but for one that is to be planned."""
    given = {"shard": None if shard == "auto" else shard, "tensor": tensor}
    counts = [f"fsdp.{name}={count}" for name, count in given.items() if count is not None]
    return ["fsdp.enable_fsdp=true", *counts] if counts else []


def _configured(file: Path, overrides: list[str], plans: bool) -> TrainingConfig:
    """Return a file's configuration, with the best layout of the processes that run where that is to be planned."""
    from trainwright.config.reading.read import load_checked

    config = load_checked(file, overrides).config
    if not plans:
        return config
    from trainwright.tasks.language.planning.layouts import chosen_here

    return load_checked(file, [*overrides, *chosen_here(config)]).config


def after(params: TrainingParams, folder: str) -> list[str]:
    """Return the command that tries what a run has made: where it is saved, and goes on with texts."""
    from trainwright.config import methods

    talks = all("CAUSAL_LM" in one.adapter_tasks for one in methods.candidates(params.trainer_type))
    return [f"trainwright chat {folder}"] if talks and params.save_final_model else []
