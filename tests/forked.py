"""Pythons that begin with the libraries loaded: forked from a server that has them, and has computed nothing.

A process of a test is then there at once, where a new Python takes seconds to load torch; the rest is as of a new one.
What is about torchrun itself, its signals and its exit codes, is tested with torchrun; what is about what is loaded, or
about libraries that read the environment when they are, in a new Python.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import Any

from tests import ROOT

LOADED = ["torch", "torch._dynamo", "torch.distributed.tensor", "transformers.models.llama.modeling_llama"]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(LOADED)
_READ_WHEN_LOADED = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_DATASETS_CACHE",
    "TRANSFORMERS_OFFLINE",
)
_OF_THE_SERVER: dict[str, dict[str, str | None]] = {}


class Python:
    """A Python that runs, with what tests use of `subprocess.Popen`; what it prints is kept as text.

    Args:
        words: such as `-m module argument`, `script.py argument` or `-c text argument`.
        environment: what differs from this process's.
        given: what it reads.
    """

    def __init__(
        self,
        words: Sequence[Any],
        environment: Mapping[str, str] | None = None,
        cwd: Path | str = ROOT,
        given: str | None = None,
    ) -> None:
        whole = {**os.environ, **(environment or {})}
        read = {name: whole.get(name) for name in _READ_WHEN_LOADED}
        assert _OF_THE_SERVER.setdefault("environment", read) == read, "this takes a new Python"
        self._folder = Path(tempfile.mkdtemp(prefix="forked-"))
        (self._folder / "in").write_text(given or "")
        given_to_it = (list(map(str, words)), whole, str(cwd), str(self._folder))
        self._process = _CONTEXT.Process(target=_become, args=given_to_it)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def said(self, name: str = "err") -> str:
        return (self._folder / name).read_text(errors="replace")

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired("python", timeout or 0, stderr=self.said())
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; return what it has printed, and its errors."""
        self.wait(timeout)
        return self.said("out"), self.said()

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass
class Done:
    """How some processes have ended: their exit codes, and what they have printed, one after another."""

    codes: list[int]
    said: str


class Ranks:
    """A Python for each rank, as torchrun starts them and ends them."""

    def __init__(
        self, words: Sequence[Any], count: int = 2, environment: Mapping[str, str] | None = None, cwd: Path | str = ROOT
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", **(environment or {}),
        }  # fmt: skip
        each = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        self.started = [Python(words, one, cwd) for one in each]

    def poll(self) -> int | None:
        """Return the first exit code that is not 0, or 0 when all have ended well."""
        codes = [one.returncode for one in self.started]
        return next((code for code in codes if code), None if None in codes else 0)

    def wait(self, timeout: float = 300) -> Done:
        """Wait until all have ended; when one fails, the others are asked to end."""
        until, asked = time.monotonic() + timeout, False
        try:
            while any(one.returncode is None for one in self.started):
                if self.poll() and not asked:
                    asked = True
                    time.sleep(0.1)
                    for one in self.started:
                        one.terminate()
                assert time.monotonic() < until, f"not over after {timeout:g} s"
                time.sleep(0.02)
        finally:
            for one in self.started:
                one.kill()
        return Done([one.wait() for one in self.started], "".join(one.said() + one.said("out") for one in self.started))


def run(words: Sequence[Any], timeout: float = 300, **settings: Any) -> CompletedProcess[str]:
    """Run a Python to its end, as `subprocess.run` does."""
    process = Python(words, **settings)
    try:
        out, errors = process.communicate(timeout)
    finally:
        process.kill()
    return CompletedProcess(words, process.wait(), out, errors)


def ranks(
    words: Sequence[Any],
    count: int = 2,
    environment: Mapping[str, str] | None = None,
    cwd: Path | str = ROOT,
    timeout: float = 300,
) -> Done:
    """Run a Python for each rank until all have ended."""
    return Ranks(words, count, environment, cwd).wait(timeout)


def _become(words: list[str], environment: dict[str, str], cwd: str, folder: str) -> None:
    """Be a Python that was started with these words."""
    multiprocessing.set_start_method(None, force=True)  # what is started here is started as from any Python
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, name in enumerate(("in", "out", "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_RDWR | os.O_APPEND | os.O_CREAT), number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 (for as long as the process lives)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    coverage = _counted()
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0:0] = words[1:], [cwd]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv, sys.path[0:0] = ["-c", *words[2:]], [cwd]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0:0] = words, [str(Path(words[0]).parent)]
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        if coverage is not None:
            coverage.stop()
            coverage.save()


def _counted() -> Any:
    """Return what counts the lines that this process runs, where `make mutants` wants to know them."""
    if "COVERAGE_PROCESS_START" not in os.environ:
        return None
    from coverage import Coverage

    if (of_the_server := Coverage.current()) is not None:
        of_the_server.stop()
    mine = Coverage(config_file=os.environ["COVERAGE_PROCESS_START"], data_suffix=True)
    mine.start()
    return mine
