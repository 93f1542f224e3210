"""Attacks on the page's server, each of which must fail: other sites, other names, other paths, no token."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn

from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import places, queue, server
from trainwright.jobs.store import Store

SECRET = "a-secret"


class Served:
    """A server in a thread of this process."""

    def __init__(self, store, host="127.0.0.1", token=None):
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(server.application(store, host, token), log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def ask(self, path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": f"127.0.0.1:{self.port}", **named})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}

    def change(self, path, body="{}", **headers):
        own = {"Origin": f"http://127.0.0.1:{self.port}", "Content_Type": "application/json"}
        return self.ask(path, "POST", body, **{**own, **headers})[:2]

    def close(self):
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def made(home):
    store = Store()
    yield store
    store.close()


@pytest.fixture
def served(made):
    one = Served(made)
    yield one
    one.close()


@pytest.fixture
def job(made, tmp_path):
    (tmp_path / "script.py").write_text("print('x')")
    return queue.submit(made, tmp_path / "script.py", {"steps": 3})


def status(made, job):
    return made.find(job)["status"]


def test_the_page_itself_is_allowed(served, job, made):
    assert served.ask("/")[0] == 200
    assert json.loads(served.ask("/api/jobs")[1])[0]["id"] == job
    assert served.change(f"/api/jobs/{job}/stop") == (200, '{"status":"STOPPED"}')
    assert status(made, job) == "STOPPED"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},  # another port is another site
        {"Origin": "file://"},
    ],
    ids=str,
)
def test_another_site_cannot_change_anything(served, job, made, headers):
    code, text = served.change(f"/api/jobs/{job}/stop", **headers)
    assert (code, json.loads(text)["error"]) == (403, "Changes are taken from this page alone.")
    assert status(made, job) == "QUEUED"


def test_a_form_of_another_site_cannot_either(served, job, made):
    code, _, _ = served.ask(f"/api/jobs/{job}/stop", "POST", "a=b", Content_Type="application/x-www-form-urlencoded")
    assert code == 403
    own = f"http://127.0.0.1:{served.port}"
    code, _, _ = served.ask(f"/api/jobs/{job}/stop", "POST", "a=b", Origin=own, Content_Type="text/plain")
    assert code == 415
    assert served.ask(f"/api/jobs/{job}/stop")[0] in (404, 405)  # no change by a link
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert served.ask(f"/api/jobs/{job}", method)[0] == 405
    assert status(made, job) == "QUEUED"


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "localhost.evil"])
def test_a_name_that_was_turned_to_this_machine_is_refused(served, name):
    code, text, _ = served.ask("/api/jobs", Host=name)
    assert code == 421
    assert "does not answer to the name" in text
    assert served.ask("/", Host=name)[0] == 421
    assert served.ask("/api/jobs", Host=f"localhost:{served.port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "/js/../../server.py", "//etc/passwd",
        "/vendor/%2e%2e/%2e%2e/store.py", "/api/jobs/..%2f..%2fetc/log", "/api/jobs/%2e%2e/log",
    ],
)  # fmt: skip
def test_no_path_leads_out(served, path):
    code, text, _ = served.ask(path)
    assert code in (404, 400, 405), text
    assert "import" not in text
    assert "root:" not in text


def test_files_of_a_job_stay_in_its_folders(served, made, job, tmp_path, home):
    secret = tmp_path / "secret.json"
    secret.write_text('[{"input": "SECRET"}]')
    output = tmp_path / "out" / "eval_results"
    output.mkdir(parents=True)
    (output / "step_1.json").symlink_to(secret)
    (output / "step_2.json").write_text('[{"input": "mine", "correct": true, "other": "hidden"}]')
    (output / "step_3.json").write_text("no json")
    folder = places.job_folder(job)
    folder.mkdir(parents=True)
    (folder / places.LOG).symlink_to(secret)
    made.update(job, data={"output_dir": str(tmp_path / "out")})
    _, text, _ = served.ask(f"/api/jobs/{job}")
    assert [one["step"] for one in json.loads(text)["samples"]] == [2]
    assert "SECRET" not in text
    assert "hidden" not in text
    assert json.loads(served.ask(f"/api/jobs/{job}/log")[1]) == {"text": "", "end": 0, "there": False}


def test_the_policy_allows_no_foreign_code(served):
    for path in ("/", "/js/main.js", "/api/jobs", "/nothing"):
        headers = served.ask(path)[2]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = served.ask("/")[1]
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert " on" not in page.replace(" on ", "").split("<body>")[0]


@pytest.mark.slow
def test_parameters_never_reach_a_shell(served, made, job, tmp_path):
    evil = f"; touch {tmp_path}/taken; $(touch {tmp_path}/taken) `touch {tmp_path}/taken`"
    code, text = served.change(f"/api/jobs/{job}/again", json.dumps({"params": {"steps": evil}}))
    assert code == 200
    new = made.find(json.loads(text)["id"])
    assert new["command"][-1] == f"--steps={evil}"
    subprocess.run([sys.executable, "-m", "trainwright.cli.main", "jobs", "worker", "--once"], check=True, timeout=60,
                   capture_output=True)  # fmt: skip
    assert made.find(new["id"])["status"] == "COMPLETE"
    assert not (tmp_path / "taken").exists()
    for wrong in ({"a b": 1}, {"--config": 1}, {"x;y": 1}):
        code, text = served.change(f"/api/jobs/{job}/again", json.dumps({"params": wrong}))
        assert (code, "is no name of a parameter" in text) == (409, True)
    for wrong in ({"a": [1]}, {"a": {"b": 1}}, 7):
        assert served.change(f"/api/jobs/{job}/again", json.dumps({"params": wrong}))[0] == 409


def test_what_is_no_json_or_too_large(served, job):
    assert served.change(f"/api/jobs/{job}/again", "{")[0] == 400
    assert served.change(f"/api/jobs/{job}/again", " " * 70_000)[0] == 413
    assert served.ask("/api/jobs/none")[0] == 404
    assert served.ask(f"/api/jobs/{job}/metrics?points=many")[0] == 404
    assert "is no whole number" in served.ask(f"/api/jobs/{job}/log?after=x")[1]


def test_beyond_this_machine_only_with_the_token(made, job):
    served = Served(made, "0.0.0.0", SECRET)  # noqa: S104
    try:
        for path in ("/", "/api/jobs", "/js/main.js", "/api/watch"):
            assert served.ask(path)[0] == 401
            assert served.ask(path, Cookie="trainwright_token=wrong")[0] == 401
            assert served.ask(path, Authorization="Bearer wrong")[0] == 401
        assert served.change(f"/api/jobs/{job}/stop")[0] == 401
        assert served.ask("/?token=wrong")[0] == 401
        code, _, headers = served.ask(f"/?token={SECRET}", Host="machine.example:80")
        assert (code, headers["location"]) == (303, "/")  # the token leaves the address
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        pair = cookie.split(";")[0]
        assert served.ask("/api/jobs", Cookie=pair)[0] == 200
        assert served.ask("/api/jobs", Authorization=f"Bearer {SECRET}")[0] == 200
        assert served.change(f"/api/jobs/{job}/stop", Cookie=pair, Origin="http://evil.example")[0] == 403
        assert served.change(f"/api/jobs/{job}/stop", Cookie=pair)[0] == 200
    finally:
        served.close()


def test_no_server_beyond_this_machine_without_a_token(home, capsys, monkeypatch):
    monkeypatch.delenv("TRAINWRIGHT_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5"):  # noqa: S104
        assert main(["ui", "--host", host]) == 2
        assert "lets other machines in, so a token is needed" in capsys.readouterr().err
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with pytest.raises(JobError, match="cannot be used .*; give another --port"):
        server.serve("127.0.0.1", taken.getsockname()[1], None)
    taken.close()


def test_the_database_is_this_users_alone(home, made):
    assert (home / "jobs.db").exists()
    assert (home.stat().st_mode & 0o077) == 0
