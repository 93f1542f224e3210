"""`trainwright ui`: the jobs of this machine on a page, for whoever has its link."""

from __future__ import annotations

import json
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from trainwright.errors import JobError
from trainwright.jobs import values
from trainwright.jobs.finding.keys import COLUMNS
from trainwright.jobs.store import attempts, curves, listing, masking, outputs, points, schema, typed
from trainwright.jobs.store.database import is_away
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import completions, feed, files, link, list_api
from trainwright.jobs.web.access_control import Guard
from trainwright.jobs.web.connection import Connection
from trainwright.jobs.worker import health, queue
from trainwright.jobs.written import spelled

PAGE = Path(__file__).parent / "page"
_SWEEP_SECONDS = 1.0
_MOST_POINTS = 4000
_DEEPEST = 20  # that values of a job may be nested


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
                health.sweep(self.store, again=True)
                self._swept = time.monotonic()

    def find(self, request: Request) -> Job:
        """Return the job of an address."""
        return self.store.find(list_api.name(request.path_params["job"]))

    def jobs(self, request: Request) -> Any:
        """One page of the list of jobs: `listing.Query` says by which words; `version` is that of `If-None-Match`."""
        self.sweep()
        version = self.store.read(listing.version)
        if request.headers.get("if-none-match") == f'"{version}"':
            return None
        return {**self.store.read(listing.page, list_api.query(request)), "version": version}

    def job(self, request: Request) -> Any:
        """Everything about a job but its curves."""
        self.sweep()
        job = self.find(request)
        name, seen = job["id"], masking.job(job)
        figures = self.store.read(points.figures, name)
        return {
            **_listed(job), "params": seen["params"], "traceback": job["traceback"], "folder": job["folder"],
            "defaults": masking.params(self.store.read(typed.defaults, job["defaults"])),
            "data": seen["data"], "kept": job["kept"],
            "host": job["host"], "command": seen["command"], "hidden": masking.hidden(job["params"]),
            "metric_names": {key: one["count"] for key, one in figures.items()},
            "metric_versions": {key: one["changed"] for key, one in figures.items()},
            "attempts_before": self.store.attempts_before(name),
            "last": {key: [one["step"], one["value"]] for key, one in figures.items()},
            "artifacts": outputs.artifacts(self.store, job), "events": self.store.of_job(schema.events, name),
            "completions": completions.listed(job),
            "samples": files.samples(job), "time": attempts.account(self.store.of_job(schema.attempts, name)),
        }  # fmt: skip

    def metrics(self, request: Request) -> Any:
        """Curves of a job by name, thinned to what a screen shows; `from` and `to` are steps.

        `attempt` is one whose values are to be seen though a later one has superseded them.
        """
        job = self.find(request)["id"]
        given = request.query_params
        names = given.getlist("name") or list(self.store.metric_names(job))
        most = min(list_api.number(given.get("points"), 1000), _MOST_POINTS)
        first, last = _step(given.get("from"), -curves.EVER), _step(given.get("to"), curves.EVER)
        attempt = list_api.number(given["attempt"], 1) if "attempt" in given else None
        held = {name: values.text(name, values.NAME_LENGTH) for name in names}
        return {
            name: self.store.read(curves.curve, job, mine, max(most, 4), first, last, attempt)
            for name, mine in held.items()
        }

    def log(self, request: Request) -> Any:
        """The end of what a job printed, or what came after a byte of it."""
        job = self.find(request)
        return files.log(job, list_api.number(request.query_params.get("after"), -1))

    def completions(self, request: Request) -> Any:
        """What was written in a generation of reinforcement learning, as `completions.groups` says."""
        return completions.groups(self.find(request), request.query_params.get("name", ""))

    def compare(self, request: Request) -> Any:
        """Parameters that differ between jobs, and their newest metrics."""
        jobs = [self.store.find(list_api.name(name)) for name in request.query_params.getlist("job")]
        figures = [self.store.read(points.figures, job["id"]) for job in jobs]
        versions = {
            name: [one[name]["changed"] if name in one else None for one in figures]
            for name in sorted(set().union(*figures))
        }
        shown = [name for name in versions if any(name in one and one[name]["count"] > 1 for one in figures)]
        found = queue.differences(self.store, jobs)
        found["params"] = {name: masking.each(name, held) for name, held in found["params"].items()}
        return {"jobs": [_listed(job) for job in jobs], "curves": shown, "metric_versions": versions, **found}

    def stop(self, request: Request, _: Any) -> Any:
        """Ask a job to stop."""
        return {"status": self.store.ask_to_stop(self.find(request)["id"])}

    def resume(self, request: Request, _: Any) -> Any:
        """Put a job that ended back into the queue."""
        return {"id": queue.resume(self.store, self.find(request))}

    def again(self, request: Request, body: Any) -> Any:
        """Put a new job into the queue, with changed parameters; a secret that comes back as it was shown is kept."""
        changes = body.get("params", {}) if isinstance(body, dict) else None
        if not isinstance(changes, dict) or not all(_is_argument(value) for value in changes.values()):
            raise JobError("`params` with names and values that are text is expected.")
        job = self.find(request)
        masked = {name: masking.shown(name, job["params"][name]) for name in masking.hidden(job["params"])}
        changes = {name: value for name, value in changes.items() if name not in masked or value != masked[name]}
        return {"id": queue.again(self.store, job, changes)}

    def look(self, request: Request, before: feed.Seen | None) -> feed.Seen:
        """Return what a page shows that watches, read only where something has changed.

        That is a page of the list, or `job`s by name, with the bytes of their logs.
        """
        self.sweep()
        version = self.store.read(listing.version)
        names = request.query_params.getlist("job")
        if before is not None and before.version == version:
            found = before.found
        elif names:
            found = {"jobs": self.store.read(listing.of_ids, names)}
        else:
            found = self.store.read(listing.page, list_api.query(request))
        if names:
            found = {"jobs": [{**job, "log": files.log_bytes(job["folder"])} for job in found["jobs"]]}
        return feed.Seen(version, found)


def application(store: Store, host: str, token: str, names: Collection[str] = ()) -> Any:
    """Return the application: the page, what it asks for, and the guard before both."""
    api = Api(store)

    async def watch(request: Request) -> Response:
        told = feed.changes(request.is_disconnected, partial(api.look, request))
        events = (f"data: {_json(news)}\n\n" if news else ":\n\n" async for news in told)
        return StreamingResponse(events, media_type="text/event-stream")

    routes = [
        Route("/api/jobs", _reading(api.jobs, 400), methods=["GET"]),
        Route("/api/jobs", _changing(partial(list_api.change, store)), methods=["POST"]),
        Route("/api/choices", _reading(partial(list_api.choices, store))),
        Route("/api/sweeps", _reading(partial(list_api.sweeps_of, store))),
        Route("/api/sweeps/{sweep}", _reading(partial(list_api.sweep, store))),
        Route("/api/watch", watch),
        Route("/api/compare", _reading(api.compare)),
        Route("/api/jobs/{job}", _reading(api.job)),
        Route("/api/jobs/{job}/metrics", _reading(api.metrics)),
        Route("/api/jobs/{job}/log", _reading(api.log)),
        Route("/api/jobs/{job}/completions", _reading(api.completions)),
        *(
            Route(f"/api/jobs/{{job}}/{action}", _changing(getattr(api, action)), methods=["POST"])
            for action in ("stop", "resume", "again")
        ),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Guard(Starlette(routes=routes), host, token, names)


def _reading(answer: Callable[[Request], Any], wrong: int = 404) -> Callable[[Request], Any]:
    def respond(request: Request) -> Response:
        return _answered(partial(answer, request), wrong)

    return respond


def _changing(answer: Callable[[Request, Any], Any]) -> Callable[[Request], Any]:
    async def respond(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except (ValueError, RecursionError):
            return _error(400, "JSON is expected.")
        return await anyio.to_thread.run_sync(_answered, partial(answer, request, body), 409)

    return respond


def _answered(answer: Callable[[], Any], wrong: int) -> Response:
    """Return an answer, or its error in one sentence, with the status `wrong` where nothing better is known."""
    try:
        found = answer()
        if found is None:
            return Response(status_code=304)
        tag = {"etag": f'"{found["version"]}"'} if "version" in found else {}
        return Response(_json(found), media_type="application/json", headers=tag)
    except JobError as error:
        return _error(400 if isinstance(error, list_api.Malformed) else wrong, str(error))
    except Exception as error:
        if not is_away(error):
            raise
        return _error(503, feed.AWAY)


def _error(status: int, text: str) -> Response:
    return Response(_json({"error": text}), status, media_type="application/json")


def _listed(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: job[name] for name in COLUMNS}


def _is_argument(value: Any) -> bool:
    """Whether a command line can hold a value: a plain one, or JSON."""
    text = spelled(value)
    return "\0" not in text and text == text.encode(errors="replace").decode()


def _step(text: str | None, default: int) -> int:
    """Return a step that the database holds."""
    return min(max(list_api.number(text, default), -curves.EVER), curves.EVER)


def _json(value: Any) -> str:
    """Return JSON in ASCII, which also holds what is no text: an argument of a command that was no UTF-8."""
    return json.dumps(_plain(value))


def _plain(value: Any, deepest: int = _DEEPEST) -> Any:
    """Return a value with null for the numbers that JSON has not, and an ellipsis for what lies too deep."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict | list | tuple) and not deepest:
        return "…"
    if isinstance(value, dict):
        return {key: _plain(one, deepest - 1) for key, one in value.items()}
    return [_plain(one, deepest - 1) for one in value] if isinstance(value, list | tuple) else value


def serve(host: str, port: int, browser: bool, names: Collection[str] = ()) -> None:
    """Serve the page until stopped.

    Args:
        host: that it listens on.
        port: that it listens on; 0 for a free one.
        browser: whether the desktop's browser is opened, where there is one.
        names: by which others reach it, as a proxy's.

    Raises:
        JobError: the port is taken, or `TRAINWRIGHT_TOKEN` could be guessed.
    """
    token = link.new_token()
    listening = _listening(host, port)
    port = listening.getsockname()[1]
    opens = link.address(host, port, token)
    store = Store()
    server = uvicorn.Server(
        uvicorn.Config(
            application(store, host, token, names),
            http=Connection,
            ws="none",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
    )
    _leave_by_signals()
    with link.kept(opens, port) as file:
        print(f"Jobs: {opens}", flush=True)
        if browser and file is not None:
            link.open_browser(file)
        server.run(sockets=[listening])
    store.close()


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections from now on."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        file = link.file_of(port)
        mine = f" The link of a page that runs there is in '{file}'." if file.exists() else ""
        why = error.strerror if isinstance(error, OSError) else error
        raise JobError(
            f"The address {host}:{port} cannot be used ({why}); give another --port or --host.{mine}"
        ) from None
    return listening


def _leave_by_signals() -> None:
    """Let signals that end the process raise, so that the link's file goes with it."""

    def leave(number: int, _: Any) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, leave)
