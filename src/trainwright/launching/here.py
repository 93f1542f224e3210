"""On this machine: torchrun's agent in this process, which begins the others, watches them and begins them anew."""

from __future__ import annotations

import os

from trainwright.errors import ConfigError
from trainwright.launching.work import Work, torchrun


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
    """Run the work to its end; see `agent.run`."""
    from trainwright.launching import agent

    os.environ.update(work.environment)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // work.processes)))
    os.environ.setdefault("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE", "[rank ${rank}] ")
    work.logs.mkdir(parents=True, exist_ok=True)
    agent.run(torchrun(work, endpoint, meeting))
