"""`trainwright launch run.yaml --gpus 8`: a run on several processes, of this machine, of Slurm's or of Kubernetes'."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.cli.numbers import at_least
from trainwright.errors import ConfigError
from trainwright.launching import here, kubernetes, slurm
from trainwright.launching.work import Work, nodes_of, torchrun

_USAGE = """trainwright launch FILE.yaml|SCRIPT.py [--gpus N | --processes N] [--nodes N] [--on here|slurm|kubernetes]
       [--resume] [--print] [KEY=VALUE ... | words of the script ...]"""


def run(argv: Sequence[str]) -> int:
    """Start what a file describes, or a script, in several processes; or print how it would be started."""
    args, words = _parser().parse_known_args(argv)
    first = next((place for place, word in enumerate(words) if not word.startswith("--") and "=" not in word), None)
    if first is None:
        raise ConfigError("Give what to start: trainwright launch FILE.yaml or SCRIPT.py.")
    file, rest = Path(words[first]), [*words[:first], *words[first + 1 :]]
    if not file.is_file():
        raise ConfigError(f"'{file}' is no file; a run's YAML file or a Python script is expected.")
    nodes, count = nodes_of(args.nodes), args.gpus or args.processes
    if count is None:
        count = _all_gpus() if args.on == "here" else None
    if count is None:
        raise ConfigError(f"--on {args.on} needs --gpus N, the GPUs of each machine, or --processes N without any.")
    asked = _Asked(args, file, rest, count, nodes, list(argv))
    if args.on == "here" and nodes[1] > 1 and args.rendezvous is None:
        raise ConfigError(
            f"--nodes {args.nodes} here: several machines meet at an address of one of them, --rendezvous HOST:PORT; "
            "start the same command on each."
        )
    return {"here": _here, "slurm": _slurm, "kubernetes": _kubernetes}[args.on](asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainwright launch", usage=_USAGE, description="Start a run on several processes and machines."
    )
    add, positive = parser.add_argument, at_least(1)
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--gpus", type=positive, help="of each machine, a process for each (here: all there are)")
    many.add_argument("--processes", type=positive, help="on the CPU of each machine, in place of GPUs")
    add("--nodes", default="1", metavar="N", help="machines, or least and most of them, as in 1:4 (1)")
    add("--on", choices=("here", "slurm", "kubernetes"), default="here", help="where (here)")
    add("--print", action="store_true", dest="shown", help="print what would be started, and start nothing")
    add("--resume", action="store_true", help="go on with the run in the folder that the file names")
    add("--shard", metavar="N|auto", help="processes that share one copy of the model (FSDP), of a file's run")
    add("--tensor", metavar="N", help="processes that compute each layer together (tensor parallel), of a file's run")
    add("--restarts", type=at_least(0), default=3, help="new beginnings after a process has failed (3)")
    add("--grace", type=positive, help="seconds to save and leave after a signal (60)")
    add("--rendezvous", metavar="HOST:PORT", help="where several machines meet, with --on here")
    add("--slurm", action="append", default=[], metavar="NAME=VALUE", help="an option of sbatch; several times")
    add("--warning", type=positive, default=600, help="seconds before Slurm's limit at which the run saves (600)")
    add("--image", help="of the pods, with --on kubernetes")
    add("--claim", metavar="NAME:/PATH", help="a volume claim that the pods share, and where it is mounted")
    return parser


@dataclass
class _Asked:
    """What the command line asks for.

    Attributes:
        options: of the command.
        file: a run's file, or a script.
        words: overrides, or words of the script.
        processes: on each machine.
        nodes: machines, the least number and the most.
        argv: the whole command line.
    """

    options: Any
    file: Path
    words: list[str]
    processes: int
    nodes: tuple[int, int]
    argv: list[str]

    @property
    def is_script(self) -> bool:
        return self.file.suffix == ".py"

    @property
    def training(self) -> list[str]:
        """The words of `train` after the file."""
        asked = {"--shard": self.options.shard, "--tensor": self.options.tensor}
        return [*(word for name, count in asked.items() if count for word in (name, count)), *self.words]

    def work(self, program: list[str], logs: Path, again: str = "") -> Work:
        options = self.options
        return Work(
            name=self.file.stem, program=tuple(program), logs=logs, processes=self.processes,
            gpus=options.processes is None, nodes=self.nodes, restarts=options.restarts, grace=options.grace,
            again=again,
        )  # fmt: skip


def _here(asked: _Asked) -> int:
    """Run it on this machine, as one job; with several, this machine's part of it."""
    options = asked.options
    work, params = _prepared(asked)
    endpoint = options.rendezvous or "localhost:0"
    if options.shown:
        kept = [f"{name}={shlex.quote(value)}" for name, value in work.environment.items()]
        print(" ".join([*kept, shlex.join(["python", "-m", "trainwright.launching.agent", *torchrun(work, endpoint)])]))
        return 0
    here.check(work)
    if asked.nodes[1] > 1:  # the first process is the job, on whichever machine it is
        os.environ["TRAINWRIGHT_JOB_ID"] = hashlib.sha256(f"{endpoint} {work.logs}".encode()).hexdigest()[:8]
        here.run(work, endpoint, None)
        return 0
    from trainwright.cli import as_job

    with as_job.running(work.name, params):
        here.run(work, endpoint, None)
    return 0


def _slurm(asked: _Asked) -> int:
    from trainwright.jobs import paths

    options = asked.options
    given = dict(one.partition("=")[::2] for one in options.slurm)
    work, _ = _prepared(asked)
    text = slurm.script(work, paths.new_id(), given, options.warning)
    if options.shown:
        print(text, end="")
        return 0
    place = work.logs / "slurm.sh"
    number = slurm.submit(text, place)
    print(f"Slurm's job {number} runs '{place}'; its log will be '{work.logs / f'slurm-{number}.log'}'.")
    return 0


def _kubernetes(asked: _Asked) -> int:
    options = asked.options
    if options.image is None:
        raise ConfigError("--on kubernetes needs --image, in which trainwright and the run's packages are.")
    claim = None
    if options.claim is not None:
        name, _, path = options.claim.partition(":")
        if not name or not path.startswith("/"):
            raise ConfigError(f"--claim {options.claim}: a volume claim and where it is mounted, as in runs:/runs.")
        claim = (name, path)
    if asked.is_script:
        program, files = [str(asked.file), *asked.words], {}
    else:
        program = ["-m", "trainwright", "train", f"{kubernetes.FILES}/{asked.file.name}", *asked.training]
        files = {asked.file.name: asked.file.read_text(encoding="utf-8")}
        _checked(asked)
    logs = Path("/tmp/logs")  # of a pod; what is printed is the pod's log too
    objects = kubernetes.manifest(asked.work(program, logs), options.image, claim, files)
    if options.shown:
        print(kubernetes.text_of(objects), end="")
        return 0
    place = Path(f"{asked.file.stem}-trainjob.yaml")
    kubernetes.submit(objects, place)
    print(
        f"The TrainJob '{objects[-1]['metadata']['name']}' is begun, as '{place}' says; to look: kubectl get trainjob."
    )
    return 0


def _prepared(asked: _Asked) -> tuple[Work, dict[str, Any]]:
    """Return what is started, with the run's folder chosen, and the job's parameters."""
    if asked.is_script:
        return asked.work([str(asked.file), *asked.words], Path("logs") / asked.file.stem), {}
    from trainwright.cli import as_job, folders

    config = _checked(asked)
    options, params = asked.options, config.training
    if params.output_dir is None and asked.nodes[1] > 1 and options.on == "here":
        raise ConfigError("Several machines need one folder that all of them see: give training.output_dir.")
    if options.shown and params.output_dir is None:
        params.output_dir = str(folders.RUNS / f"{asked.file.stem}-N")
    else:
        folders.choose(config, asked.file, options.resume, False)
    folder = Path(params.output_dir or "").expanduser().absolute()
    if not (options.resume or options.shown or asked.nodes[1] > 1) and folders.holds_run(folder):
        raise ConfigError(
            f"output_dir '{folder}' holds a run. --resume goes on with it; for a new one give another "
            "training.output_dir."
        )
    program = ["-m", "trainwright", "train", str(asked.file.absolute()), *asked.training]
    place = f"training.output_dir={folder}"
    again = [
        one for one in asked.argv if one not in ("--resume", "--print") and not one.startswith("training.output_dir=")
    ]
    command = shlex.join(["trainwright", "launch", *again, "--resume", place])
    return asked.work([*program, place], folder / "logs", command), as_job.changed(config)


def _checked(asked: _Asked) -> Any:
    """Return the file's configuration.

    Raises:
        ConfigError: all mistakes in it.
    """
    from trainwright.config.reading.read import load_checked

    return load_checked(asked.file, asked.words).config


def _all_gpus() -> int:
    """Return how many GPUs this machine has; 1 for none, which is refused where it is begun."""
    import torch

    return torch.cuda.device_count() or 1
