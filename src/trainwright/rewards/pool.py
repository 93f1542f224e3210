"""Rewards of many rows, in processes of their own: what hangs or fails costs its row, and is told by name."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from trainwright.rewards.functions import Answer, Reward, call

Columns = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Failure:
    """A row that has no reward, since the function failed.

    Attributes:
        reward: its name.
        row: number among the rows that were judged together.
        reason: what went wrong.
    """

    reward: str
    row: int
    reason: str


class Caller(Protocol):
    """Whatever calls a reward function."""

    def ask(self, reward: Reward, columns: Columns) -> Answer | str:
        """Return the rewards, or why there are none."""


class Here:
    """Calls functions in this process, where nothing ends one that hangs."""

    def ask(self, reward: Reward, columns: Columns) -> Answer | str:
        """Return the rewards, or why there are none."""
        return asked(reward, columns)


def asked(reward: Reward, columns: Columns) -> Answer | str:
    """Return the rewards, or what the user's function has raised instead, to end the program or otherwise."""
    try:
        return call(reward, columns)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


class Worker:
    """Calls functions in a process, which is ended after `timeout` seconds without an answer."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, reward: Reward, columns: Columns) -> Answer | str:
        """Return the rewards, or why there are none."""
        process = self._process = self._process or _started()
        assert process.stdin is not None
        try:
            process.stdin.write(pickle.dumps((reward, dict(columns))))
            process.stdin.flush()
            answer = self._answer(process)
        except (BrokenPipeError, EOFError):
            code = process.wait()
            self.close()
            return f"its process ended with {code}"
        if answer is None:
            self.close()
            return f"no answer within {self.timeout:g} seconds (reward_timeout)"
        return answer

    def _answer(self, process: subprocess.Popen[bytes]) -> Answer | str | None:
        assert process.stdout is not None
        received, end = b"", time.monotonic() + self.timeout
        while (left := end - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                continue
            more = os.read(process.stdout.fileno(), 2**16)
            if not more:
                raise EOFError
            received += more
            if received.endswith(pickle.STOP):
                try:
                    found: Answer | str = pickle.loads(received)
                    return found
                except (pickle.UnpicklingError, EOFError, ValueError):
                    continue  # not all of it yet
        return None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _started() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "trainwright.rewards.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,  # a Ctrl-C is the run's to act on
    )


class Pool:
    """Judges rows with several functions.

    Args:
        rewards: the functions.
        processes: in which they are called; 0 for this one.
        timeout: seconds of a call. One that takes longer, or raises, is made again in parts: row by row, and of a
            function that takes lists, which may compare what was written after a prompt, prompt by prompt. A part that
            fails alone has no reward of that function.
    """

    def __init__(self, rewards: Sequence[Reward], processes: int, timeout: float) -> None:
        self.rewards = rewards
        self._workers = [Worker(timeout) for _ in range(processes)]
        self._callers: list[Caller] = list(self._workers) or [Here()]

    def judge(self, columns: Columns, group: int = 1) -> tuple[list[list[float | None]], list[Failure]]:
        """Return (rewards of each function for every row, what failed).

        Args:
            columns: lists of the same length, by name; see `functions.call`.
            group: rows of a prompt, which lie side by side and are given to a function together.
        """
        found, failures = self._divided([one for one in self.rewards if not one.here], columns, group)
        each = iter(found)
        judged: list[list[float | None]] = []
        for reward in self.rewards:
            values, wrong = _judged(Here(), reward, columns, group) if reward.here else (next(each), {})
            judged.append(values)
            failures += [Failure(reward.name, row, why) for row, why in wrong.items()]
        return judged, failures

    def _divided(
        self, rewards: Sequence[Reward], columns: Columns, group: int
    ) -> tuple[list[list[float | None]], list[Failure]]:
        """Return what functions say, each process of some of the prompts."""
        prompts = len(columns["completions"]) // group
        callers = self._callers[: max(1, min(len(self._callers), prompts))]
        edges = [prompts * n // len(callers) * group for n in range(len(callers) + 1)]
        parts = [(edges[n], _cut(columns, edges[n], edges[n + 1])) for n in range(len(callers))]
        with ThreadPoolExecutor(len(callers)) as threads:
            judged = list(threads.map(partial(_part, rewards, group), callers, parts))
        found = [[value for values, _ in judged for value in values[n]] for n in range(len(rewards))]
        return found, [failure for _, failures in judged for failure in failures]

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


def _part(
    rewards: Sequence[Reward], group: int, caller: Caller, part: tuple[int, Columns]
) -> tuple[list[list[float | None]], list[Failure]]:
    first, columns = part
    failures: list[Failure] = []
    found = []
    for reward in rewards:
        values, wrong = _judged(caller, reward, columns, group)
        found.append(values)
        failures += [Failure(reward.name, first + row, why) for row, why in wrong.items()]
    return found, failures


def _judged(caller: Caller, reward: Reward, columns: Columns, group: int) -> tuple[list[float | None], dict[int, str]]:
    """Return (the rewards of one function, why a row has none that ought to have one)."""
    count, size = len(columns["completions"]), group if reward.takes_lists else 1
    answer = caller.ask(reward, columns)
    if isinstance(answer, Answer):
        return answer.values, answer.wrong
    if count <= size:
        return [None] * count, dict.fromkeys(range(count), answer)
    values, wrong = list[float | None](), dict[int, str]()
    for start in range(0, count, size):
        some, why = _judged(caller, reward, _cut(columns, start, start + size), group)
        values += some
        wrong |= {start + row: reason for row, reason in why.items()}
    return values, wrong


def _cut(columns: Columns, start: int, end: int) -> Columns:
    return {name: values[start:end] for name, values in columns.items()}
