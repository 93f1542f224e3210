"""On this machine: torchrun's agent in this process, which begins the others, watches them and begins them anew."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from trainwright.errors import ConfigError, Interrupted, TrainwrightError
from trainwright.launching.work import Work, torchrun


class LaunchError(TrainwrightError, RuntimeError):
    """The processes of a run have failed more often than they were to begin anew."""


def check(work: Work) -> None:
    """Compare the processes with the GPUs of this machine.

    Raises:
        ConfigError: there are fewer.
    """
    if not work.gpus:
        return
    import torch

    there = torch.cuda.device_count()
    if there == 0:
        raise ConfigError(
            "This machine has no GPU that torch finds. --processes N starts N processes on the CPU, and --on slurm or "
            "kubernetes other machines."
        )
    if work.processes > there:
        raise ConfigError(f"--gpus {work.processes}: this machine has {there}. Give at most --gpus {there}.")


def run(work: Work, endpoint: str, meeting: str | None) -> None:
    """Run the work to its end; signals go to every process, which save and leave.

    Raises:
        LaunchError: it failed, saying which process did first, and how.
        Interrupted: a signal ended it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as run_agent

    os.environ.update(work.environment)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // work.processes)))
    os.environ.setdefault("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE", "[rank ${rank}] ")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)  # of ours below has what they say, in a sentence
    work.logs.mkdir(parents=True, exist_ok=True)
    try:
        run_agent(parse_args(torchrun(work, endpoint, meeting)))
    except ChildFailedError as error:
        raise LaunchError(_told(work, error)) from error
    except SignalException as stop:
        number = int(stop.sigval)
        told = f"Interrupted by {signal.Signals(number).name}: the processes have saved and left."
        raise Interrupted(number, told) from stop


def _told(work: Work, error: Any) -> str:
    """Return which process failed first, and how, in a sentence."""
    rank, failure = error.get_first_failure()
    how = f"left with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was ended by {signal.Signals(-failure.exitcode).name}"
    begun = f", after {work.restarts} new beginnings" if work.restarts else ""
    return f"Rank {rank} (process {failure.pid}) {how}{begun}. What every process said lies in '{work.logs}'."
