"""What is to be started, and torchrun's words for it, which the agent takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainwright.compat import gives_grace
from trainwright.errors import STOP_SIGNALS, ConfigError

_ALIVE = "keep_alive_interval=2,keep_alive_max_attempt=3"  # a machine that is gone is noticed within 6 s, not 15
_JOINING = "join_timeout=600,last_call_timeout=3"  # seconds that the least number of machines is waited for, and more

AGAIN = "TRAINWRIGHT_GOES_ON"
"""In the environment of a launched process: the command that goes on with the run."""


@dataclass(frozen=True)
class Work:
    """A program that runs in several processes, on one machine or more.

    Attributes:
        name: of the run.
        program: what Python runs and its arguments: `-m` and a module, or a script.
        logs: the folder of what every process prints.
        processes: on each machine.
        gpus: whether each process has a GPU of its own; without, they compute on the CPU.
        nodes: machines, the least number and the most.
        restarts: how often all processes begin anew after one has failed.
        grace: seconds in which the processes save and leave after a signal, before they are killed; by default 60, or
            what a torchrun gives that cannot be told.
        again: the command that goes on with the run, which its last words name.
    """

    name: str
    program: tuple[str, ...]
    logs: Path
    processes: int
    gpus: bool
    nodes: tuple[int, int] = (1, 1)
    restarts: int = 3
    grace: int | None = None
    again: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What the processes find in their environment besides what is there."""
        kept = {"TRAINWRIGHT_JOB_RESUME": "1"}  # whoever begins anew goes on
        if self.again:
            kept[AGAIN] = self.again
        if not self.gpus:
            kept["CUDA_VISIBLE_DEVICES"] = ""
        if self.nodes[1] > 1:  # else a machine that joins later waits for an address that the others do not tell again
            kept["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        return kept


def torchrun(work: Work, endpoint: str = "localhost:0", meeting: str | None = None) -> list[str]:
    """Return torchrun's words: how many processes there are and where they meet, and what each of them runs.

    Args:
        work: what is started.
        endpoint: where the machines meet, `host:port`.
        meeting: its name, the same on all machines; by default the run's.

    Raises:
        ConfigError: this torchrun cannot be told how long the processes may take to leave, and it is asked for.
    """
    if work.grace is not None and not gives_grace():
        raise ConfigError(
            f"--grace {work.grace}: the torchrun of this torch gives the processes 30 seconds, and cannot be told "
            "otherwise. Install torch 2.12 or newer, or leave --grace out."
        )
    least, most = work.nodes
    signals = ",".join(one.name for one in STOP_SIGNALS if one.name != "SIGXCPU")  # which is each process's own
    return [
        f"--nnodes={least}" if least == most else f"--nnodes={least}:{most}",
        f"--nproc-per-node={work.processes}",
        f"--max-restarts={work.restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={meeting or word(work.name)}",
        f"--rdzv-conf={_ALIVE},{_JOINING}",
        f"--signals-to-handle={signals}",
        *([f"--shutdown-timeout={work.grace or 60}"] if gives_grace() else []),
        f"--log-dir={work.logs}",
        "--tee=3",
        "-m",
        "trainwright.launching.worker",
        *work.program,
    ]


def word(name: str) -> str:
    """Return a name as one word, of letters, digits and dashes, as machines want them."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"


def nodes_of(text: str) -> tuple[int, int]:
    """Return the least and the greatest number of machines, of `2` or `1:4`.

    Raises:
        ConfigError: that is no number of machines.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise ConfigError(f"--nodes {text}: a number of machines such as 2 is expected, or least and most, as in 1:4.")
    return least, most
