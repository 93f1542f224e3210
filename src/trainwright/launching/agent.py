"""torchrun's agent, which begins the processes, watches them, and begins them anew where that can help:
`python -m trainwright.launching.agent` with torchrun's words."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousClosedError
from torch.distributed.launcher import api
from torch.distributed.run import parse_args
from torch.distributed.run import run as run_agent

from trainwright.errors import Interrupted, TrainwrightError
from trainwright.launching import verdict
from trainwright.launching.judge import Judge


class LaunchError(TrainwrightError, RuntimeError):
    """The processes of a run have failed of what stays as it is, or more often than they were to begin anew."""


class Agent(LocalElasticAgent):
    """torchrun's, which asks a judge before it begins the processes anew."""

    def __init__(self, *given: Any, judge: Judge, **named: Any) -> None:
        super().__init__(*given, **named)
        self._judge = judge

    def _monitor_workers(self, worker_group: Any) -> Any:
        result = super()._monitor_workers(worker_group)
        if result.is_failed() and not self._judge.begins_anew(_said(result.failures)):
            self._remaining_restarts = 0
        return result


def run(words: Sequence[str]) -> None:
    """Run processes to their end; signals go to every one, which save and leave.

    Args:
        words: of torchrun.

    Raises:
        LaunchError: they failed, saying which did first, and how.
        Interrupted: a signal ended them.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # errors below say it in a sentence
    asked, judge = parse_args([*words]), Judge()
    try:
        api.LocalElasticAgent = partial(Agent, judge=judge)  # type: ignore[attr-defined, assignment]  # torchrun takes no agent
        run_agent(asked)
    except ChildFailedError as error:
        told = judge.reason or _told(error, judge.history())
        raise LaunchError(f"{told} What every process said lies in '{asked.log_dir}'.") from error
    except RendezvousClosedError as error:
        raise LaunchError("Another machine has ended the run; why is said there.") from error
    except SignalException as stop:
        number = int(stop.sigval)
        told = f"Interrupted by {signal.Signals(number).name}: the processes have saved and left."
        raise Interrupted(number, told) from stop


def _said(failures: Mapping[int, Any]) -> dict[int, verdict.Verdict]:
    """Return what the failed processes said, by rank."""
    said = {rank: verdict.read(one.error_file_data) for rank, one in failures.items()}
    return {rank: one for rank, one in said.items() if one is not None}


def _told(error: Any, history: str) -> str:
    """Return which process failed first, and how, in a sentence."""
    rank, failure = error.get_first_failure()
    how = f"left with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was ended by {signal.Signals(-failure.exitcode).name}"
    return f"Rank {rank} (process {failure.pid}) {how}{history}."


def main(words: Sequence[str]) -> int:
    """Run processes, and return the exit code."""
    try:
        run(words)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as stop:
        return 128 + stop.number
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
