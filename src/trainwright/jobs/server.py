"""`trainwright ui`: the jobs of this machine on a page, for this machine alone unless a token is given."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from trainwright.errors import JobError
from trainwright.jobs import curves, files, health, queue, schema
from trainwright.jobs.guard import LOOPBACK, Guard
from trainwright.jobs.store import Job, Store, is_away

PAGE = Path(__file__).parent / "page"
_SWEEP_SECONDS = 1.0
_WATCH_SECONDS = 0.5
_ALIVE_SECONDS = 15.0
_MOST_POINTS = 4000
_LISTED = ("id", "name", "experiment", "status", "progress", "step", "total_steps", "created", "started", "ended",
           "message", "attempt", "params", "stop_requested")  # fmt: skip


class Api:
    """What the page asks for; every method answers one address.

    Attributes:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._swept = 0.0
        self._sweeping = threading.Lock()

    def sweep(self) -> None:
        """Bring statuses up to date, at most once a second."""
        with self._sweeping:
            if time.monotonic() - self._swept > _SWEEP_SECONDS:
                health.sweep(self.store)
                self._swept = time.monotonic()

    def jobs(self, _: Request) -> Any:
        """All jobs, the newest first."""
        self.sweep()
        return [_listed(job) for job in self.store.jobs()]

    def job(self, request: Request) -> Any:
        """Everything about a job but its curves."""
        self.sweep()
        job = self.store.find(request.path_params["job"])
        name = job["id"]
        return {
            **_listed(job), "traceback": job["traceback"], "folder": job["folder"], "data": job["data"],
            "host": job["host"], "command": job["command"], "metric_names": self.store.metric_names(name),
            "last": {key: list(value) for key, value in self.store.last_metrics(name).items()},
            "artifacts": self.store.of_job(schema.artifacts, name), "events": self.store.of_job(schema.events, name),
            "samples": files.samples(job),
        }  # fmt: skip

    def metrics(self, request: Request) -> Any:
        """Curves of a job by name, thinned to what a screen shows; `from` and `to` are steps."""
        job = self.store.find(request.path_params["job"])["id"]
        given = request.query_params
        names = given.getlist("name") or list(self.store.metric_names(job))
        most = min(_number(given.get("points"), 1000), _MOST_POINTS)
        first, last = _number(given.get("from"), 0), _number(given.get("to"), 2**62)
        found = {}
        for name in names:
            points = [point for point in self.store.metric(job, name) if first <= point[0] <= last]
            found[name] = [[step, value] for step, value, _ in curves.thinned(points, max(most, 4))]
        return found

    def log(self, request: Request) -> Any:
        """The end of what a job printed, or what came after a byte of it."""
        job = self.store.find(request.path_params["job"])
        return files.log(job, _number(request.query_params.get("after"), -1))

    def compare(self, request: Request) -> Any:
        """Parameters that differ between jobs, and their newest metrics."""
        jobs = [self.store.find(name) for name in request.query_params.getlist("job")]
        counts = [self.store.metric_names(job["id"]) for job in jobs]
        curves = sorted({name for found in counts for name, count in found.items() if count > 1})
        return {"jobs": [_listed(job) for job in jobs], "curves": curves, **queue.differences(self.store, jobs)}

    def stop(self, request: Request, _: Any) -> Any:
        """Ask a job to stop."""
        return {"status": self.store.ask_to_stop(self.store.find(request.path_params["job"])["id"])}

    def resume(self, request: Request, _: Any) -> Any:
        """Put a job that ended back into the queue."""
        return {"id": queue.resume(self.store, self.store.find(request.path_params["job"]))}

    def again(self, request: Request, body: Any) -> Any:
        """Put a new job into the queue, with changed parameters."""
        changes = body.get("params", {}) if isinstance(body, dict) else None
        if not isinstance(changes, dict) or not all(isinstance(v, str | int | float | bool) for v in changes.values()):
            raise JobError("`params` with names and plain values is expected.")
        return {"id": queue.again(self.store, self.store.find(request.path_params["job"]), changes)}

    async def watch(self, request: Request) -> AsyncIterator[str]:
        """Yield all jobs again whenever something changed, as server-sent events."""
        last, said = "", time.monotonic()
        while not await request.is_disconnected():
            try:
                now = await anyio.to_thread.run_sync(partial(self.jobs, request))
                text = json.dumps(_finite(now))
            except Exception as error:
                if not is_away(error):
                    raise
                text = json.dumps({"error": "The job database cannot be reached just now."})
            if text != last or time.monotonic() - said > _ALIVE_SECONDS:
                last, said = text, time.monotonic()
                yield f"data: {text}\n\n"
            await anyio.sleep(_WATCH_SECONDS)


def application(store: Store, host: str = "127.0.0.1", token: str | None = None) -> Any:
    """Return the application: the page, what it asks for, and the guard before both."""
    api = Api(store)

    async def watch(request: Request) -> Response:
        return StreamingResponse(api.watch(request), media_type="text/event-stream")

    routes = [
        Route("/api/jobs", _reading(api.jobs)),
        Route("/api/watch", watch),
        Route("/api/compare", _reading(api.compare)),
        Route("/api/jobs/{job}", _reading(api.job)),
        Route("/api/jobs/{job}/metrics", _reading(api.metrics)),
        Route("/api/jobs/{job}/log", _reading(api.log)),
        *(
            Route(f"/api/jobs/{{job}}/{action}", _changing(getattr(api, action)), methods=["POST"])
            for action in ("stop", "resume", "again")
        ),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Guard(Starlette(routes=routes), host, token)


def _reading(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    @wraps(answer)
    def respond(request: Request) -> Response:
        try:
            return JSONResponse(_finite(answer(request)))
        except JobError as error:
            return JSONResponse({"error": str(error)}, status_code=404)

    return respond


def _changing(answer: Callable[[Request, Any], Any]) -> Callable[[Request], Any]:
    @wraps(answer)
    async def respond(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
            return JSONResponse(await anyio.to_thread.run_sync(answer, request, body))
        except ValueError:
            return JSONResponse({"error": "JSON is expected."}, status_code=400)
        except JobError as error:
            return JSONResponse({"error": str(error)}, status_code=409)

    return respond


def _listed(job: Job) -> dict[str, Any]:
    return {name: job[name] for name in _LISTED}


def _number(text: str | None, default: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError:
        raise JobError(f"{text[:40]!r} is no whole number.") from None  # type: ignore[index]


def _finite(value: Any) -> Any:
    """Return a value with null for the numbers that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def serve(host: str, port: int, token: str | None) -> None:
    """Serve the page until stopped.

    Raises:
        JobError: beyond this machine without a token, or the port is taken.
    """
    token = token or os.environ.get("TRAINWRIGHT_TOKEN") or None
    if not is_loopback(host) and token is None:
        raise JobError(
            f"--host {host} lets other machines in, so a token is needed: --token {secrets.token_urlsafe(16)}, or "
            "TRAINWRIGHT_TOKEN. Without --host the page is for this machine alone."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise JobError(f"The address {host}:{port} cannot be used ({error.strerror}); give another --port.") from None
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/"
    print(f"Jobs: {address}{f'?token={token}' if token else ''}", flush=True)
    store = Store()
    settings = uvicorn.Config(application(store, host, token), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(settings).run(sockets=[listening])
    store.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
