"""A store of objects behind HTTP on this machine, and fsspec's view of it (`shelf://127.0.0.1:PORT/bucket`)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import fsspec
from fsspec.callbacks import NoOpCallback
from fsspec.spec import AbstractFileSystem


class Shelf(ThreadingHTTPServer):
    """The store; what it takes is there whole, as in a bucket.

    Attributes:
        objects: contents by key.
        log: of every request: its method and key.
        fails: says of a method and key whether it is refused.
        delay: seconds that every object takes to be written.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.fails = lambda method, key: False
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"shelf://127.0.0.1:{self.server_port}/bucket"


class Answering(BaseHTTPRequestHandler):
    server: Shelf

    def answer(self) -> None:
        key = self.path.lstrip("/")
        shelf, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        shelf.log.append((self.command, key))
        if shelf.fails(self.command, key):
            self.reply(503)
        elif self.command == "PUT":
            time.sleep(shelf.delay)
            shelf.objects[key] = body
            self.reply(200)
        elif self.command == "DELETE":
            self.reply(200 if shelf.objects.pop(key, None) is not None else 404)
        elif key.startswith("?"):
            found = {name: len(content) for name, content in shelf.objects.items() if name.startswith(key[1:])}
            self.reply(200, json.dumps(found).encode())
        else:
            self.reply(200 if key in shelf.objects else 404, shelf.objects.get(key, b""))

    do_GET = do_PUT = do_DELETE = answer

    def reply(self, code: int, body: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: Any) -> None:
        pass


class ShelfFileSystem(AbstractFileSystem):
    protocol = "shelf"
    cachable = False

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        host, _, key = self._strip_protocol(path).partition("/")
        try:
            with urlopen(Request(f"http://{host}/{key}", body, method=method), timeout=20) as reply:
                return reply.read()
        except HTTPError as error:
            raise FileNotFoundError(path) if error.code == 404 else OSError(f"the server answers {error.code}")

    def find(self, path: str, detail: bool = False, **more: Any) -> Any:
        host, _, key = self._strip_protocol(path).partition("/")
        found = json.loads(self._ask("GET", f"{host}/?{key}/"))
        return {f"{host}/{name}": {"name": f"{host}/{name}", "size": size} for name, size in found.items()}

    def exists(self, path: str, **more: Any) -> bool:
        return bool(self.find(path))

    def rm(self, path: str, recursive: bool = False, **more: Any) -> None:
        for name in self.find(path):
            self._ask("DELETE", name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass

    def cat_file(self, path: str, **more: Any) -> bytes:
        return self._ask("GET", path)

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        self._ask("PUT", path, value)

    def put_file(self, lpath: str, rpath: str, callback: Any = NoOpCallback(), **more: Any) -> None:
        content = Path(lpath).read_bytes()
        self._ask("PUT", rpath, content)
        callback.relative_update(len(content))

    def get_file(self, rpath: str, lpath: str, **more: Any) -> None:
        Path(lpath).write_bytes(self._ask("GET", rpath))


@contextmanager
def opened() -> Iterator[Shelf]:
    """Serve a store while the body runs."""
    fsspec.register_implementation("shelf", ShelfFileSystem, clobber=True)
    shelf = Shelf()
    thread = threading.Thread(target=shelf.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield shelf
    finally:
        shelf.shutdown()
        thread.join()
        shelf.server_close()
