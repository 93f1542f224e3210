"""`trainwright ui`: the jobs of this machine on a page, for whoever has its link."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from trainwright.errors import JobError
from trainwright.jobs.alerts.watch import Watch
from trainwright.jobs.store import attempts, listing, masking, outputs, points, schema, typed
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import charted, completions, feed, files, link, list_api
from trainwright.jobs.web.access_control import Guard
from trainwright.jobs.web.answers import as_json, changing, is_argument, name_of, number, reading
from trainwright.jobs.web.connection import Connection
from trainwright.jobs.web.forms import Forms
from trainwright.jobs.web.talks import Talks, models_of
from trainwright.jobs.worker import health, queue, ranks

PAGE = Path(__file__).parent / "page"
_SWEEP_SECONDS = 1.0


class Api:
    """What the page asks for; every method answers one address.

    Attributes:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._swept = 0.0
        self._sweeping = threading.Lock()
        self.alerts = Watch()

    def sweep(self) -> None:
        """Bring statuses up to date, at most once a second."""
        with self._sweeping:
            if time.monotonic() - self._swept > _SWEEP_SECONDS:
                health.sweep(self.store, again=True)
                self.alerts.look(self.store)
                self._swept = time.monotonic()

    def find(self, request: Request) -> Job:
        """Return the job of an address."""
        return self.store.find(name_of(request.path_params["job"]))

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
            **charted.listed(job), "params": seen["params"], "traceback": job["traceback"], "folder": job["folder"],
            "defaults": masking.params(self.store.read(typed.defaults, job["defaults"])),
            "data": seen["data"], "kept": job["kept"],
            "host": job["host"], "command": seen["command"], "hidden": masking.hidden(job["params"]),
            "metric_names": {key: one["count"] for key, one in figures.items()},
            "metric_versions": {key: one["changed"] for key, one in figures.items()},
            "flat": charted.flat(figures), "talks": bool(models_of(job)),
            "attempts_before": self.store.attempts_before(name),
            "last": {key: [one["step"], one["value"]] for key, one in figures.items()},
            "artifacts": outputs.artifacts(self.store, job), "events": self.store.of_job(schema.events, name),
            "completions": completions.listed(job), "samples": files.samples(job), "media": files.media(job),
            "time": attempts.account(self.store.of_job(schema.attempts, name)),
            "ranks": ranks.states(job), "gone": ranks.gone(job),
        }  # fmt: skip

    def metrics(self, request: Request) -> Any:
        """Curves of a job by name, as `charted.curves_of` says."""
        return charted.curves_of(self.store, self.find(request)["id"], request.query_params)

    def log(self, request: Request) -> Any:
        """The end of what a job printed, or what came after a byte of it; with `rank` and `name`, of a file of one of
        its processes."""
        job, asked = self.find(request), request.query_params
        after = number(asked.get("after"), -1)
        if "rank" not in asked:
            return files.log(job, after)
        path = ranks.log(job, number(asked["rank"], 0), asked.get("name", ""))
        return files.text(path, after) if path else files.no_text("What this process printed is not here.")

    def media(self, request: Request) -> Any:
        """A picture or a film that a job has made."""
        path = files.one_of_media(self.find(request), request.path_params["name"])
        if path is None:
            raise JobError("The job has no such picture.")
        return FileResponse(path, media_type=files.MEDIA_TYPES[path.suffix.lower()])

    def completions(self, request: Request) -> Any:
        """What was written in a generation of reinforcement learning, as `completions.groups` says."""
        return completions.groups(self.find(request), request.query_params.get("name", ""))

    def compare(self, request: Request) -> Any:
        """What differs between jobs, and their metrics, as `charted.comparison` says."""
        return charted.comparison(self.store, self._named(request))

    def csv(self, request: Request) -> Any:
        """All points of a metric of jobs, for a spreadsheet."""
        return charted.as_csv(self.store, self._named(request), request.query_params.get("name", ""))

    def _named(self, request: Request) -> list[Job]:
        return [self.store.find(name_of(name)) for name in request.query_params.getlist("job")]

    def stop(self, request: Request, _: Any) -> Any:
        """Ask a job to stop."""
        return {"status": self.store.ask_to_stop(self.find(request)["id"])}

    def resume(self, request: Request, _: Any) -> Any:
        """Put a job that ended back into the queue."""
        return {"id": queue.resume(self.store, self.find(request))}

    def again(self, request: Request, body: Any) -> Any:
        """Put a new job into the queue, with changed parameters; a secret that comes back as it was shown is kept."""
        changes = body.get("params", {}) if isinstance(body, dict) else None
        if not isinstance(changes, dict) or not all(is_argument(value) for value in changes.values()):
            raise JobError("`params` with names and values that are text is expected.")
        job = self.find(request)
        masked = {name: masking.shown(name, job["params"][name]) for name in masking.hidden(job["params"])}
        changes = {name: value for name, value in changes.items() if name not in masked or value != masked[name]}
        return {"id": queue.again(self.store, job, changes)}

    def look(self, request: Request, before: feed.Seen | None) -> feed.Seen:
        """Return what a page shows that watches, read only where something has changed.

        That is a page of the list, or `job`s by name, with the bytes of their logs and the ranks that are gone.
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
            found = {"jobs": [{**job, **self._unnoted(job)} for job in found["jobs"]]}
        return feed.Seen(version, found)

    def _unnoted(self, job: Job) -> dict[str, Any]:
        """Return what changes of a job without a change of its row."""
        return {"log": files.log_bytes(job["folder"]), "gone": ranks.gone(self.store.find(job["id"]))}


def application(store: Store, host: str, token: str, names: Collection[str] = ()) -> Any:
    """Return the application: the page, what it asks for, and the guard before both."""
    api, talks, made = Api(store), Talks(store), Forms(store)

    async def watch(request: Request) -> Response:
        told = feed.changes(request.is_disconnected, partial(api.look, request))
        events = (f"data: {as_json({**news, 'now': time.time()})}\n\n" if news else ":\n\n" async for news in told)
        return StreamingResponse(events, media_type="text/event-stream")

    routes = [
        Route("/api/jobs", reading(api.jobs, 400), methods=["GET"]),
        Route("/api/jobs", changing(partial(list_api.change, store)), methods=["POST"]),
        Route("/api/choices", reading(partial(list_api.choices, store))),
        Route("/api/sweeps", reading(partial(list_api.sweeps_of, store))),
        Route("/api/sweeps/{sweep}", reading(partial(list_api.sweep, store))),
        Route("/api/watch", watch),
        Route("/api/models", reading(talks.models)),
        Route("/api/chat", talks.chat, methods=["POST"]),
        Route("/api/form", reading(made.form)),
        Route("/api/form/check", made.check, methods=["POST"]),
        Route("/api/form/train", made.train, methods=["POST"]),
        Route("/api/compare", reading(api.compare)),
        Route("/api/csv", reading(api.csv)),
        Route("/api/jobs/{job}", reading(api.job)),
        Route("/api/jobs/{job}/metrics", reading(api.metrics)),
        Route("/api/jobs/{job}/log", reading(api.log)),
        Route("/api/jobs/{job}/completions", reading(api.completions)),
        Route("/api/jobs/{job}/media/{name:path}", reading(api.media)),
        *(
            Route(f"/api/jobs/{{job}}/{action}", changing(getattr(api, action)), methods=["POST"])
            for action in ("stop", "resume", "again")
        ),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        talks.close()

    return Guard(Starlette(routes=routes, lifespan=lifespan), host, token, names)


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
    logging.getLogger("uvicorn.error").addFilter(_is_no_farewell)
    _leave_by_signals()
    with link.kept(opens, port) as file:
        print(f"Jobs: {opens}", flush=True)
        if browser and file is not None:
            link.open_browser(file)
        server.run(sockets=[listening])
    store.close()


def _is_no_farewell(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is another one than that an open page was not waited for."""
    return not str(record.msg).startswith("Cancel %s running task")


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

    def leave(ending: int, _: Any) -> None:
        sys.exit(128 + ending)

    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) == signal.SIG_DFL:  # not under nohup
            signal.signal(ending, leave)
