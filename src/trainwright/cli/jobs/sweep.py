"""`trainwright sweep run.yaml lr=1e-4,3e-4 batch=8,16`: many jobs of one file, and one table of what came of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.cli.numbers import at_least
from trainwright.errors import ConfigError, JobError, did_you_mean

if TYPE_CHECKING:
    from trainwright.jobs.store.store import Store
    from trainwright.jobs.sweeps.plan import Plan

_USAGE = """trainwright sweep FILE NAME=A,B [NAME=log(1e-5,1e-3)] [NAME=VALUE] [options]
       trainwright sweep --resume SWEEP | --show [SWEEP]"""
_SHORT = {"lr": "learning_rate", "batch": "per_device_train_batch_size", "batch_size": "per_device_train_batch_size",
          "epochs": "num_train_epochs", "steps": "max_steps"}  # fmt: skip


def run(argv: Sequence[str]) -> int:
    """Try values of parameters, a job for each, and say which are best."""
    args, words = _parser().parse_known_args(argv)
    from trainwright.cli.jobs.tables import opened

    if args.show is not None:
        return _show(opened(), args.show, args.json)
    from trainwright.jobs.sweeps import drive, plan

    store = opened()
    if args.resume:
        if words:
            raise JobError(f"'{words[0]}': a sweep that goes on is as it was begun.")
        going = plan.load(args.resume)
        count = drive.go_on(store, going)
        if count:
            print(f"{count} of its jobs were lost, and go on.")
    else:
        going = _begun(args, words)
    return _through(store, going, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainwright sweep", usage=_USAGE, description="Try values of parameters.")
    parser.add_argument("-c", "--config", type=Path, help="the YAML file or script; -c may be left out")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--resume", metavar="SWEEP", help="go on with a sweep")
    way.add_argument("--show", nargs="?", const="", metavar="SWEEP", help="its table; without a name all sweeps")
    parser.add_argument("--name", help="of the sweep, and of the experiment that its jobs are in (FILE-sweep-N)")
    parser.add_argument("--metric", help="what is to be best (eval/loss where the run evaluates, else train/loss)")
    parser.add_argument("--direction", choices=["minimize", "maximize"], help="which way it is better (by its name)")
    parser.add_argument("--trials", type=at_least(1), metavar="N", help="how many; optuna says what is tried next")
    parser.add_argument("--prune", action="store_true", help="end jobs that are worse than the median at their step")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--slots", type=at_least(1), default=1, help="jobs at a time (1)")
    parser.add_argument("--gpus", type=at_least(0), default=0, help="devices that each job needs (0)")
    parser.add_argument("--restart", type=at_least(0), default=0, metavar="N", help="as of jobs submit (0)")
    parser.add_argument("--queue", action="store_true", help="leave the jobs to trainwright jobs worker")
    parser.add_argument("--json", action="store_true", help="the table for machines")
    return parser


def _begun(args: argparse.Namespace, words: Sequence[str]) -> Plan:
    """Return a new sweep, which is kept from now on; what cannot run is refused before."""
    from trainwright.cli.files import file_and_overrides
    from trainwright.jobs.sweeps import plan, spaces, table
    from trainwright.jobs.worker import queue

    file, given = file_and_overrides(args.config, words, "sweep")
    is_yaml = file.suffix in queue.YAML
    given = [_named(word) for word in given] if is_yaml else given
    space, same = spaces.read(given)
    if spaces.grid(space) is None and args.trials is None:
        raise JobError("A range has no end of values; say how many are tried: --trials 20.")
    if not is_yaml and not args.metric:
        raise JobError("A script's metric has no usual name; say what is to be best: --metric NAME.")
    metric = args.metric or _metric(file, same)
    made = plan.Plan(
        name=args.name or plan.new_name(file.stem), file=str(file), words=given, metric=metric,
        direction=args.direction or table.direction(metric), trials=args.trials, prune=args.prune, seed=args.seed,
        restarts=args.restart, gpus=args.gpus,
    )  # fmt: skip
    if is_yaml:
        for params in _ends(space):
            described(file, [*same, *spaces.overrides(params)])
    elif not file.is_file():
        raise JobError(f"There is no file '{file}' (looked for from {Path.cwd()}).")
    return plan.keep(made)


def _ends(space: Any) -> Any:
    """Yield what is looked at before a sweep begins: every value of each parameter once, and the ends of ranges."""
    from trainwright.jobs.sweeps.spaces import Choices

    values = {name: own.values if isinstance(own, Choices) else _two(own) for name, own in space.items()}
    for place in range(max(map(len, values.values()))):
        yield {name: found[min(place, len(found) - 1)] for name, found in values.items()}


def _two(own: Any) -> Any:
    return [str(int(one) if own.is_whole else one) for one in (own.low, own.high)]


def described(file: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a YAML file gives, and what everything is by default.

    Raises:
        ConfigError: it cannot run so.
    """
    from trainwright.cli.jobs.actions import checked

    return checked(file, overrides)


def _named(word: str) -> str:
    """Return a word with the whole name of the key that it means: `lr` is `training.learning_rate`.

    Raises:
        ConfigError: there is no such key, or there are several.
    """
    from trainwright.config.keys import fates

    name, equals, text = word.removeprefix("--").partition("=")
    if not equals or "." in name:
        return word
    known = [key for key in fates.every_key() if "*" not in key]
    found = [key for key in known if key.rpartition(".")[2] == _SHORT.get(name, name)]
    own = [key for key in found if key.startswith("training.") and key.count(".") == 1]
    found = own or found
    if len(found) == 1:
        return f"{found[0]}={text}"
    if found:
        raise ConfigError(f"{name!r} is the end of several keys: {', '.join(found[:6])}; write one of them.")
    raise ConfigError(f"{name!r} is no key.{did_you_mean(name, [*(key.rpartition('.')[2] for key in known), *_SHORT])}")


def _metric(file: Path, overrides: Sequence[str]) -> str:
    """Return what a run is judged by: its loss on the validation rows where it evaluates."""
    from trainwright.config.reading.read import load

    return "eval/loss" if str(load(file, overrides).config.training.eval_strategy) != "no" else "train/loss"


def _through(store: Store, plan: Plan, args: argparse.Namespace) -> int:
    from trainwright.jobs.sweeps import drive
    from trainwright.jobs.worker.worker import Worker

    go_on = f"trainwright sweep --resume {plan.name}"
    if args.queue and not plan.is_searched():
        count = drive.begin(store, plan, described)
        print(
            f"{count} jobs are queued; trainwright jobs worker runs them, trainwright sweep --show {plan.name} tells."
        )
        return 0
    print(f"The sweep {plan.name}: {_size(plan)}, by {plan.metric}. If it is broken off: {go_on}", flush=True)
    worker = None if args.queue else Worker(store, args.slots)
    if not drive.run(store, plan, described, worker, args.slots):
        print(f"Its jobs that run go on. {go_on}")
        return 130
    return _show(store, plan.name, args.json)


def _size(plan: Plan) -> str:
    combinations = plan.combinations()
    count = plan.trials if plan.trials is not None else len(combinations or ())
    return f"{count} {'job' if count == 1 else 'jobs'}"


def _show(store: Store, name: str, for_machines: bool) -> int:
    """Print the table of a sweep, the best first; without a name the names of all."""
    from trainwright.cli.jobs.tables import print_json, short, table
    from trainwright.jobs.sweeps import drive
    from trainwright.jobs.sweeps import table as tables

    if not name:
        print("\n".join(tables.names(store)) or "There are no sweeps yet. trainwright sweep FILE NAME=A,B begins one.")
        return 0
    found = tables.table(store, name)
    if for_machines:
        print_json(found)
        return 0
    is_up = found["direction"] == tables.MAXIMIZE
    order = sorted(found["trials"], key=lambda one: (one["value"] is None, (one["value"] or 0) * (-1 if is_up else 1)))
    rows = [
        [one["trial"], one["job"], *(short(one["params"].get(key)) for key in found["keys"]), short(one["value"]),
         "PRUNED" if one["pruned"] else one["status"]]
        for one in order
    ]  # fmt: skip
    shown = [key.removeprefix("training.") for key in found["keys"]]
    table(["trial", "job", *shown, f"best {found['metric']}", "status"], rows)
    best = drive.best(found)
    if best is not None:
        tried = ", ".join(f"{key}={short(best['params'].get(key))}" for key in found["keys"])
        print(f"The best is {best['job']}: {found['metric']} {short(best['value'])} with {tried}.")
    return 0
