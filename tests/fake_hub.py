"""A hub on this machine: as much of its HTTP interface as pushing takes, and a memory of what was sent."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

WRITING, READING = "hf_may_write", "hf_may_read"


class FakeHub(ThreadingHTTPServer):
    """Knows one user, `me`, and two tokens; every request that is not understood is an error of the test.

    Attributes:
        repositories: whether each is private, by name.
        commits: (repository, branch, message, content by path), in order.
        refused: whether the next commits fail.
        busy: cleared to let uploads wait.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, bool] = {}
        self.commits: list[tuple[str, str, str, dict[str, bytes]]] = []
        self.refused = False
        self.busy = threading.Event()
        self.busy.set()

    def sent(self) -> dict[str, bytes]:
        """Return everything that lies in any repository."""
        return {path: content for *_, files in self.commits for path, content in files.items()}


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args):
        pass

    def answer(self, status, content, error=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        if error is not None:
            self.send_header("X-Error-Message", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def may(self, *tokens):
        """Whether the request has one of some tokens; it is refused otherwise."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in tokens:
            return True
        known = token in (WRITING, READING)
        self.answer(403 if known else 401, {}, "Forbidden." if known else "Invalid username or password.")
        return False

    def do_GET(self):
        parts = urlsplit(self.path).path.split("/")[1:]
        name = "/".join(parts[2:4])
        if name not in self.server.repositories:
            self.answer(404, {}, "Repository not found")
        elif parts[4:] == ["auth-check", "write"]:
            if self.may(WRITING):
                self.answer(200, {})
        elif self.may(WRITING, READING):
            self.answer(200, {"id": name, "private": self.server.repositories[name], "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.split("/")[1:]
        if parts == ["api", "validate-yaml"]:
            yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            self.answer(200, {})
        elif not self.may(WRITING):
            pass
        elif parts == ["api", "repos", "create"]:
            self.create(json.loads(body))
        elif parts[4] == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self.answer(200, {"files": files})
        elif parts[4] == "commit":
            self.commit("/".join(parts[2:4]), unquote(parts[5]), body)
        else:
            self.answer(500, {}, f"{self.path} is not known here")

    def create(self, asked):
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        private = asked.get("visibility") == "private" or asked.get("private") is True
        status = 409 if name in self.server.repositories else 200
        self.server.repositories.setdefault(name, private)
        self.answer(status, {"url": f"{self.server.url}/{name}"})

    def commit(self, name, branch, body):
        self.server.busy.wait()
        if self.server.refused:
            self.answer(400, {}, "The disk of the hub is full")
            return
        entries = [json.loads(line) for line in body.splitlines()]
        files = {entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
                 for entry in entries if entry["key"] == "file"}  # fmt: skip
        self.server.commits.append((name, branch, entries[0]["value"]["summary"], files))
        self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1", "hookOutput": ""})


@contextmanager
def running():
    """Run a hub, and let huggingface_hub talk to it alone."""
    from huggingface_hub import constants, hf_api

    hub = FakeHub()
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    before = constants.ENDPOINT, hf_api.api.endpoint
    constants.ENDPOINT = hf_api.api.endpoint = hub.url
    try:
        yield hub
    finally:
        constants.ENDPOINT, hf_api.api.endpoint = before
        hub.busy.set()
        hub.shutdown()
        hub.server_close()
