"""Chats with trained models on the page, each in a process of its own: `trainwright chat --lines`."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from trainwright.checkpoint import layout
from trainwright.errors import JobError
from trainwright.jobs import processes
from trainwright.jobs.store import outputs
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.web.answers import as_json, error_of, name_of

_BASE = "base"
_FINISHED = "finished"
_MOST_TALKS = 2  # models in memory at a time are few
_IDLE_SECONDS = 900.0
_LONGEST_LINE = 1_000_000
_MOST_JOBS = 50
_RUN = "run.yaml"  # what it was begun with
_SETTINGS = ("config.json", "adapter_config.json")
_NUMBERS = {"temperature": (0.0, 10.0), "max_new_tokens": (1, 4096)}


@dataclass
class Talk:
    """A process that talks.

    Attributes:
        process: `trainwright chat --lines`.
        lines: that it writes.
        said: what it said besides, of errors.
        turn: one question at a time.
        used: when it was asked last, by the monotonic clock.
    """

    process: anyio.abc.Process
    lines: BufferedByteReceiveStream
    said: IO[bytes]
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    used: float = field(default_factory=time.monotonic)

    async def ask(self, words: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield the lines that answer; where nobody takes them any more the model stops."""
        assert self.process.stdin is not None
        self.used = math.inf
        over = False
        try:
            await self.process.stdin.send(json.dumps(words).encode() + b"\n")
            while not over:
                line = await self.lines.receive_until(b"\n", _LONGEST_LINE)
                over = b'"done": true' in line
                yield line + b"\n"
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            over = True
            yield (as_json({"done": True, "error": self.last_words()}) + "\n").encode()
        finally:
            self.used = time.monotonic()
            if not over:
                with anyio.CancelScope(shield=True):
                    await self._quiet()

    async def _quiet(self) -> None:
        """Stop an answer, and read what is left of it."""
        self.process.send_signal(signal.SIGINT)
        with anyio.move_on_after(30):
            while b'"done": true' not in await self.lines.receive_until(b"\n", _LONGEST_LINE):
                continue
            return
        self.close()

    def last_words(self) -> str:
        """Return what a process said before it ended."""
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "The process of the chat has ended."

    def close(self) -> None:
        """End the process."""
        if self.process.returncode is None:
            self.process.kill()


class Talks:
    """The chats of a server.

    Args:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.talks: dict[tuple[str, ...], Talk] = {}
        self.opening = anyio.Lock()

    def models(self, _: Request) -> Any:
        """The models of the newest jobs that lie on this machine."""
        found = []
        for job in self.store.jobs(limit=_MOST_JOBS):
            own = models_of(job)
            if own:
                found.append({"job": job["id"], "name": job["name"], "models": own})
        return {"jobs": found}

    async def chat(self, request: Request) -> Response:
        """Answer what is said to one model, or to two side by side, in lines of JSON as they are written."""
        try:
            body = await request.json()
            cwd, words = await anyio.to_thread.run_sync(partial(self._command, body))
            talk = await self._talk(cwd, words)
        except (ValueError, TypeError, KeyError):
            return error_of(400, "JSON with `models` and `ask` is expected.")
        except JobError as error:
            return error_of(409, str(error))
        return StreamingResponse(self._answer(talk, body.get("ask") or {}), media_type="application/x-ndjson")

    async def _answer(self, talk: Talk, asked: dict[str, Any]) -> AsyncIterator[bytes]:
        async with talk.turn:
            async for line in talk.ask(asked):
                yield line

    def _command(self, body: dict[str, Any]) -> tuple[str | None, list[str]]:
        """Return the command that talks with the models of a request, and the folder where it is begun.

        Raises:
            JobError: there is no such model here, or a number is none that a model can be asked with.
        """
        places: list[str] = []
        options: list[str] = []
        cwd: str | None = None
        for model in body["models"][:2]:
            job = self.store.find(name_of(str(model["job"])))
            known = {one["which"]: one["path"] for one in models_of(job)}
            if model["which"] not in known:
                raise JobError(f"The job {job['id']} has no model '{model['which']}' on this machine.")
            places.append(known[model["which"]])
            cwd = cwd or job["cwd"]
        for name, (least, most) in _NUMBERS.items():
            value = body.get(name)
            if value is not None:
                if not isinstance(value, int | float) or not least <= value <= most:
                    raise JobError(f"{name} {value!r}: a number from {least} to {most} is expected.")
                options += [f"--{name.replace('_', '-')}", f"{value:g}"]
        return cwd, ["chat", *places, *options, "--lines"]

    async def _talk(self, cwd: str | None, words: Sequence[str]) -> Talk:
        """Return the process that a command is, begun now where there is none.

        Raises:
            JobError: it ended at once; what it said.
        """
        async with self.opening:
            self._tidy()
            key = (cwd or "", *words)
            talk = self.talks.get(key)
            if talk is not None and talk.process.returncode is None:
                return talk
            while len(self.talks) >= _MOST_TALKS:
                oldest = min(self.talks, key=lambda one: self.talks[one].used)
                self.talks.pop(oldest).close()
            self.talks[key] = talk = await _begun(cwd, words)
            return talk

    def _tidy(self) -> None:
        """End those that nobody has asked for long."""
        for key, talk in [*self.talks.items()]:
            if time.monotonic() - talk.used > _IDLE_SECONDS or talk.process.returncode is not None:
                self.talks.pop(key).close()

    def close(self) -> None:
        """End all of them."""
        for talk in self.talks.values():
            talk.close()


async def _begun(cwd: str | None, words: Sequence[str]) -> Talk:
    said = tempfile.TemporaryFile()  # noqa: SIM115 (it lasts as long as the process)
    process = await anyio.open_process(
        [sys.executable, "-m", "trainwright", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        cwd=cwd,
    )
    assert process.stdout is not None
    talk = Talk(process, BufferedByteReceiveStream(process.stdout), said)
    try:
        while b'"ready"' not in await talk.lines.receive_until(b"\n", _LONGEST_LINE):
            continue
    except (anyio.EndOfStream, anyio.IncompleteRead):
        await process.wait()
        raise JobError(talk.last_words()) from None
    return talk


def models_of(job: Job) -> list[dict[str, str]]:
    """Return the models of a job that lie on this machine: `which`, `path`, and in words `text`; the newest first."""
    folder = outputs.run_folder(job)
    if folder is None or job["host"] != processes.hostname() or not (folder / _RUN).is_file():
        return []
    found = []
    if any((folder / name).is_file() for name in _SETTINGS):
        found.append({"which": _FINISHED, "path": str(folder), "text": "finished"})
    for path in reversed(layout.checkpoints(folder)):
        found.append({"which": path.name, "path": str(path), "text": f"step {layout.step_of(path)}"})
    if found and _began_with_weights(folder / _RUN):
        found.append({"which": _BASE, "path": f"base:{folder}", "text": "what it was trained from"})
    return found


def _began_with_weights(file: Path) -> bool:
    """Whether a run went on from a model, and not from random weights."""
    import yaml

    try:
        model = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("model") or {}
        return bool(model.get("load_pretrained_weights", True))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return False
