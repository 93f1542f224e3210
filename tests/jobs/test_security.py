"""Attacks on the page's server, each of which must fail: other users, sites, names and paths, no token, no end."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn

from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.store import masking
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import access_control, connection, server
from trainwright.jobs.worker import queue

SECRET = "a-secret/of+the page"
TRAINWRIGHT = [sys.executable, "-m", "trainwright.cli.main"]
NOBODY = 65534


class Served:
    """A server in a thread of this process; `ask` brings its token unless it is given another, or none."""

    def __init__(self, store, host="127.0.0.1", names=()):
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        application = server.application(store, host, SECRET, names)
        self.server = uvicorn.Server(uvicorn.Config(application, http=connection.Connection, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def ask(self, path, method="GET", body=None, token=SECRET, **headers):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        own = {"Host": f"127.0.0.1:{self.port}", **({"Authorization": f"Bearer {token}"} if token else {})}
        client.request(
            method, path, body, {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
        )
        answer = client.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}

    def change(self, path, body="{}", **headers):
        own = {"Origin": f"http://127.0.0.1:{self.port}", "Content_Type": "application/json"}
        return self.ask(path, "POST", body, **{**own, **headers})[:2]

    def raw(self, text):
        """Send bytes as they are, and return the status of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as client:
            client.sendall(text)
            return int(client.recv(65_536).split(b" ")[1])

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


@pytest.mark.slow
def test_the_page_itself_is_allowed(served, job, made):
    assert served.ask("/")[0] == 200
    assert json.loads(served.ask("/api/jobs")[1])["jobs"][0]["id"] == job
    assert served.change(f"/api/jobs/{job}/stop") == (200, '{"status": "STOPPED"}')
    assert status(made, job) == "STOPPED"


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost.evil"])
def test_a_name_that_was_turned_to_this_machine_is_refused(served, name):
    code, text, _ = served.ask("/api/jobs", Host=name)
    assert code == 421
    assert "does not answer to the name" in text
    assert served.ask("/", Host=name)[0] == 421
    assert served.ask("/api/jobs", Host=f"localhost:{served.port}")[0] == 200


def test_a_name_that_the_tokens_owner_allowed_is_answered_to(made, job):
    """As a proxy's: it may pass its own name on, or ask by this machine's; other pages change nothing all the same."""
    served = Served(made, names=["lab.example.org"])
    own = f"127.0.0.1:{served.port}"
    try:
        for host in ("lab.example.org", "LAB.example.org:8443", own):
            assert served.ask("/api/jobs", Host=host)[0] == 200
        assert served.ask("/api/jobs", Host="other.example.org")[0] == 421
        assert served.ask("/api/jobs", Host="lab.example.org", token=None)[0] == 401
        entered = served.ask("/api/jobs?token=a-secret%2Fof%2Bthe%20page", token=None, Host="lab.example.org")
        assert 'content="0;url=../"' in entered[1]  # to the root below whatever path the proxy has
        cookie = entered[2]["set-cookie"].split(";")[0]
        assert cookie.startswith(f"trainwright_80_{served.port}=")  # pages behind one proxy are told apart
        for host in ("lab.example.org", own):
            change = {"Host": host, "Origin": "https://lab.example.org:8443"}
            assert (
                served.change(f"/api/jobs/{job}/resume", **change)[0] == 409
            )  # it is queued: the change was looked at
        for origin in ("https://lab.example.org.evil.example", "https://evil.example", "null", "lab.example.org",
                       "ftp://lab.example.org", "https://[lab"):  # fmt: skip
            assert served.change(f"/api/jobs/{job}/stop", Host="lab.example.org", Origin=origin)[0] == 403
        for token, expected in ((None, 200), ("wrong", 401)):
            given = {"Cookie": cookie} if token is None else {}
            assert served.ask("/api/jobs", token=token, Host="lab.example.org", **given)[0] == expected
    finally:
        served.close()


@pytest.mark.slow
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
    (output / "step_2.json").write_text('[{"input": "mine", "correct": true, "other": "private"}]')
    (output / "step_3.json").write_text("no json")
    folder = paths.job_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / paths.LOG).symlink_to(secret)
    made.update(job, data={"output_dir": str(tmp_path / "out")})
    _, text, _ = served.ask(f"/api/jobs/{job}")
    assert [one["step"] for one in json.loads(text)["samples"]] == [2]
    assert "SECRET" not in text
    assert "private" not in text
    log = json.loads(served.ask(f"/api/jobs/{job}/log")[1])
    assert (log["text"], log["end"], log["there"]) == ("", 0, False)


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
    subprocess.run([sys.executable, "-m", "trainwright.cli.main", "jobs", "worker", "--once"], check=True, timeout=300,
                   capture_output=True)  # fmt: skip
    assert made.find(new["id"])["status"] == "COMPLETE"
    assert not (tmp_path / "taken").exists()
    for wrong in ({"a b": 1}, {"--config": 1}, {"x;y": 1}):
        code, text = served.change(f"/api/jobs/{job}/again", json.dumps({"params": wrong}))
        assert (code, "is no name of a parameter" in text) == (409, True)
    for wrong in ({"a": "x\0"}, {"a": "\ud800"}, 7):  # in a list or a mapping JSON spells them
        assert served.change(f"/api/jobs/{job}/again", json.dumps({"params": wrong}))[0] == 409


def test_what_is_no_json_or_too_large(served, job):
    assert served.change(f"/api/jobs/{job}/again", "{")[0] == 400
    assert served.change(f"/api/jobs/{job}/again", " " * 70_000)[0] == 413
    assert served.ask("/api/jobs/none")[0] == 404
    assert served.ask(f"/api/jobs/{job}/metrics?points=many")[0] == 400
    assert "is no whole number" in served.ask(f"/api/jobs/{job}/log?after=x")[1]


def again(served, job, body, head, token=SECRET):
    """Send a body as it is to the address that starts a job again; return the status of the answer."""
    own = f"127.0.0.1:{served.port}"
    lines = [
        f"POST /api/jobs/{job}/again HTTP/1.1",
        f"Host: {own}",
        f"Origin: http://{own}",
        f"Authorization: Bearer {token}",
    ]
    return served.raw("\r\n".join([*lines, "Content-Type: application/json", *head, "", ""]).encode() + body)


def test_a_form_takes_what_a_command_line_holds(served, made):
    asked = {"file": "sft.yaml", "kind": "recipe"}
    for text in ("a\0b", "\ud800"):
        said = served.change("/api/form/train", json.dumps({**asked, "values": {"training.run_name": text}}))
        assert (said[0], "holds what no command line can" in said[1]) == (409, True)
    for body in ([], 5, None, {"file": 5}, {**asked, "values": "abc"}):
        assert served.change("/api/form/train", json.dumps(body))[0] in (400, 409), body
    assert not made.jobs()


def test_a_body_in_chunks_is_measured_too(served, job, made):
    chunked, small, large = "Transfer-Encoding: chunked", b'{"params": {"steps": 5}}', b" " * 0x8000
    assert again(served, job, b"18\r\n%b\r\n0\r\n\r\n" % small, [chunked]) == 200
    assert made.jobs()[0]["params"]["steps"] == 5
    for length in ([], ["Content-Length: 2"]):  # what is said of the length does not count
        assert again(served, job, b"8000\r\n%b\r\n" % large * 3, [*length, chunked]) == 413
    assert again(served, job, b"", ["Content-Length: 99999999"], token="wrong") == 401  # before a byte of it is read
    assert again(served, job, b"[" * 60_000, ["Content-Length: 60000"]) == 400  # deeper than Python reads
    assert len(made.jobs()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    ["[", "[::1", "127.0.0.1:x", "127.0.0.1:99999", "a@127.0.0.1", "", "127.0.0.1\r\nHost: evil.example"],
    ids=repr,
)
def test_a_host_that_is_none_is_no_fault_of_ours(served, host):
    assert served.raw(f"GET /api/jobs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()) == 400


def test_neither_is_a_path(served, job):
    for path in ("/api/jobs/" + "a" * 60_000, "/api/jobs/" + "a" * 65, "/api/jobs/_", "/api/jobs/%00", "/%00",
                 f"/api/compare?job={job}&job=%25", f"/api/jobs/{job}/metrics?from=-1e5",
                 "/api/jobs?limit=x", "/api/jobs?where=lr", "/api/jobs?sort=nothing"):  # fmt: skip
        assert served.ask(path)[0] == 400, path[:40]


def test_what_is_under_way_when_the_server_ends_is_told_so():
    sent = []

    async def send(message):
        sent.append(message)

    async def ended():
        begun = asyncio.Event()

        async def waiting(*_):
            begun.set()
            await asyncio.Event().wait()

        asked = {"type": "http", "method": "GET", "path": "/api/jobs", "query_string": b"", "scheme": "http",
                 "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {SECRET}".encode())]}  # fmt: skip
        guard = access_control.Guard(waiting, "127.0.0.1", SECRET)
        task = asyncio.create_task(guard(asked, None, send))
        await begun.wait()
        task.cancel()
        await task

    asyncio.run(ended())
    assert sent[0]["status"] == 503
    assert b"has been ended" in sent[1]["body"]


def test_a_request_without_an_end_is_not_waited_for(made, monkeypatch):
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.3)
    served = Served(made)
    try:
        half = f"GET /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nX-Long: ".encode()
        whole = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {SECRET}\r\n\r\n".encode()
        for first, then in ((b"", b""), (half, b""), (whole, half)):  # also after a whole one on the same connection
            with socket.create_connection(("127.0.0.1", served.port), timeout=300) as client:
                client.sendall(first)
                while then and not client.recv(65_536).endswith(b"</html>\n"):
                    continue
                client.sendall(then)
                assert client.recv(65_536) == b""  # the server hangs up
        assert served.ask("/api/jobs")[0] == 200
    finally:
        served.close()


def test_what_json_cannot_hold_hides_no_other_job(served, made, job, tmp_path):
    """A command that is no UTF-8, a job's data and files of any shape: all jobs are listed, and this one is shown."""
    deep = 1
    for _ in range(300):
        deep = [deep]
    results = tmp_path / "out" / "eval_results"
    results.mkdir(parents=True)
    (results / "step_1.json").write_text('[{"input": ["a", 1], "generated": NaN}]')
    (results / "step_2.json").write_text('{"a": 1}')
    (results / "step_3.json").write_text("[" * 50_000)
    (results / "step_²4.json").write_text("7")
    os.mkfifo(results / "step_5.json")
    made.update(job, command=["python", "s.py", "--x=\udcff"], params={"x": "\udcff", "deep": deep},
                data={"output_dir": str(tmp_path / "out"), "nan": float("nan")})  # fmt: skip
    assert json.loads(served.ask("/api/jobs?show=param:x")[1])["jobs"][0]["values"] == {"param:x": "\\udcff"}
    code, text, _ = served.ask(f"/api/jobs/{job}")
    assert code == 200
    assert [one["step"] for one in json.loads(text)["samples"]] == [1]
    for output in (7, ["a"], "\0", "/dev/null"):
        made.update(job, data={"output_dir": output})
        assert served.ask(f"/api/jobs/{job}")[0] == 200
    for value in ("\ud800", "a\0b"):  # no command line can hold it
        assert served.change(f"/api/jobs/{job}/again", json.dumps({"params": {"x": value}}))[0] == 409


@pytest.mark.slow
def test_only_with_the_token_and_then_by_its_cookie(made, job):
    served = Served(made, "0.0.0.0")  # noqa: S104
    try:
        for path in ("/", "/api/jobs", "/js/main.js", "/api/watch", "/nothing"):
            assert served.ask(path, token=None)[0] == 401
        own = f"trainwright_{served.port}"
        assert served.ask("/", token=None, Cookie=f"{own}={SECRET}")[0] == 401  # the cookie is another one
        assert served.ask("/", token="wrong")[0] == 401
        assert served.ask("/?token=wrong", token=None)[0] == 401
        assert served.change(f"/api/jobs/{job}/stop", token=None)[0] == 401
        page = served.ask("/", token=None, Accept="text/html")
        assert page[2]["content-type"].startswith("text/html")
        assert "open the link that `trainwright ui` printed" in page[1]
        code, text, headers = served.ask("/?token=a-secret%2Fof%2Bthe%20page", token=None, Host="machine.example:81")
        assert (code, SECRET in text + str(headers)) == (200, False)
        assert 'http-equiv="refresh" content="0;url=./"' in text  # the token leaves the address
        pair, *attributes = headers["set-cookie"].split("; ")
        assert pair.startswith("trainwright_81=")  # the port as the browser sees it
        assert {"HttpOnly", "SameSite=strict", "Path=/"} == set(attributes)
        cookie = f'other={{"a": 1}}; {own}={pair.partition("=")[2]}'  # among those of other pages of the machine
        assert served.ask("/api/jobs", token=None, Cookie=cookie)[0] == 200
        assert served.change(f"/api/jobs/{job}/stop", token=None, Cookie=cookie, Origin="http://evil.example")[0] == 403
        assert served.change(f"/api/jobs/{job}/stop", token=None, Cookie=cookie)[0] == 200
    finally:
        served.close()


def test_few_tokens_can_be_tried_and_who_is_known_does_not_wait(served, monkeypatch):
    monkeypatch.setattr(access_control, "_MOST_WAITING", 8)
    cookie = served.ask(f"/?token={SECRET.replace(' ', '%20').replace('+', '%2B')}")[2]["set-cookie"].split(";")[0]
    with ThreadPoolExecutor(40) as pool:
        tried = [pool.submit(served.ask, "/api/jobs", token=f"wrong-{number}") for number in range(40)]
        while not any(one.done() for one in tried):
            time.sleep(0.01)
        assert served.ask("/api/jobs", token=None, Cookie=cookie)[0] == 200
        assert not all(one.done() for one in tried)  # those that are looked at keep their turn
        answers = [one.result()[0] for one in tried]
    assert set(answers) == {401, 429}
    assert answers.count(401) <= 8 + access_control._TURNS
    assert served.ask("/api/jobs")[0] == 200


def test_a_token_stands_on_no_command_line(home, capsys, monkeypatch):
    for words in (["--token", "abc"], ["--token=abc"], ["--token"]):
        assert main(["ui", *words]) == 2
        assert "the list of processes would show it to every user" in capsys.readouterr().err
    for short in ("abc", "a b c d e f g h i j", "ä" * 20):
        monkeypatch.setenv("TRAINWRIGHT_TOKEN", short)
        assert main(["ui"]) == 2
        assert re.search(rf"TRAINWRIGHT_TOKEN holds {len(short)} characters; at least 16", capsys.readouterr().err)
    assert not home.exists()


def test_an_address_that_is_taken_names_the_link_of_the_page_there(home):
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(JobError, match=r"cannot be used .*; give another --port or --host\.$"):
        server.serve("127.0.0.1", port, browser=False)
    home.mkdir()
    (home / f"ui-{port}.html").write_text("the link")
    with pytest.raises(JobError, match=rf"The link of a page that runs there is in '.*ui-{port}\.html'"):
        server.serve("127.0.0.1", port, browser=False)
    with pytest.raises(JobError, match="cannot be used"):
        server.serve("127.0.0.1", 99_999, browser=False)
    taken.close()


def ui_on_a_terminal(tmp_path):
    """Start the page as somebody before a desktop does; return its process, its link and what the browser was given."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/part; cat "${{1#file://}}" >> {tmp_path}/part; '
                       f"mv {tmp_path}/part {tmp_path}/words\n")  # fmt: skip
    browser.chmod(0o755)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TRAINWRIGHT, "ui", "--port", "0"], stdout=theirs, env={**os.environ, "DISPLAY": ":9", "BROWSER": str(browser)}
    )
    os.close(theirs)
    said = b""
    while b"\n" not in said:
        said += os.read(ours, 4096)
    while not (tmp_path / "words").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process, said.decode().split()[-1], (tmp_path / "words").read_text()


@pytest.mark.slow
def test_the_browser_is_opened_through_a_file(home, tmp_path):
    process, link, words = ui_on_a_terminal(tmp_path)
    try:
        token = link.partition("?token=")[2]
        opened, _, page = words.partition("\n")
        file = home / f"ui-{link.split(':')[2].split('/')[0]}.html"
        assert len(token) > 40
        assert opened == file.as_uri()  # so the list of processes shows no token
        assert f"url={link}" in page
        assert file.stat().st_mode & 0o777 == 0o600
        assert token not in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 128 + signal.SIGTERM
    assert not file.exists()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_this_machine_learns_and_does_nothing(monkeypatch):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others already
        os.chmod(place, 0o755)
        home = Path(place) / "home"
        home.mkdir()
        home.chmod(0o755)  # as a provisioning script made it
        monkeypatch.setenv("TRAINWRIGHT_HOME", str(home))
        (Path(place) / "script.py").write_text("print('SECRET in the log')")
        submit = [*TRAINWRIGHT, "jobs", "submit", f"{place}/script.py", "--param", "lr=1"]
        said = subprocess.run(submit, check=True, capture_output=True, text=True)
        assert "could be read by others (mode 755); it is this user's alone now" in said.stderr
        job = said.stdout.split()[0]
        process = subprocess.Popen([*TRAINWRIGHT, "ui", "--port", "0"], stdout=subprocess.PIPE, text=True)
        port = process.stdout.readline().split(":")[3].split("/")[0]
        attack = f"""
import http.client, json, os, subprocess
def ask(method, path, body=None, **headers):
    client = http.client.HTTPConnection("127.0.0.1", {port})
    client.request(method, path, body, headers)
    return client.getresponse().status
own = dict(Origin="http://127.0.0.1:{port}", **{{"Content-Type": "application/json"}})
found = [ask("GET", path) for path in ("/", "/api/jobs", "/api/jobs/{job}/log", "/api/watch")]
found += [ask("POST", "/api/jobs/{job}/again", json.dumps(dict(params=dict(lr=2))), **own)]
for path in ("", "/jobs.db", "/jobs/{job}", "/ui-{port}.html"):
    try:
        found.append(os.listdir("{home}" + path) if path in ("", "/jobs/{job}") else open("{home}" + path).read())
    except PermissionError:
        found.append("refused")
found.append(open("/proc/{process.pid}/cmdline").read().split(chr(0))[1:-1])
print(json.dumps(found))
"""
        nobody = subprocess.run(
            ["/usr/bin/env", "python3", "-I", "-c", attack], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
            capture_output=True, text=True, env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        )  # fmt: skip
        process.kill()
        process.wait()
        assert nobody.returncode == 0, nobody.stderr
        assert json.loads(nobody.stdout) == [401] * 5 + ["refused"] * 4 + [
            ["-m", "trainwright.cli.main", "ui", "--port", "0"]
        ]
        assert len(Store(f"sqlite:///{home}/jobs.db").jobs()) == 1


SECRETS = {"hf_token": "hf_q7q", "db.password": 1234, "apiKey": "key-q7q", "url": "postgresql://me:pw-q7q@host/db",
           "note": "sk-" + "q7q1" * 8}  # fmt: skip
SHOW_SECRETS = "&".join(f"show=param:{name}" for name in SECRETS)
PLAIN = {"eos_token": "</s>", "max_new_tokens": 5, "token_type": "word", "use_auth_token": True, "sort_key": "length",
         "password": None, "url_of_data": "https://host/a:b@c", "lr": 0.1}  # fmt: skip


def test_secrets_are_not_shown(served, made, tmp_path, capsys):
    (tmp_path / "script.py").write_text("print('x')")
    first = queue.submit(made, tmp_path / "script.py", {**SECRETS, **PLAIN})
    second = queue.submit(made, tmp_path / "script.py", {**SECRETS, **PLAIN, "hf_token": "hf_q7q_other"})
    made.update(first, data={"wandb_api_key": "key-q7q"})
    shown = [
        served.ask(path)[1]
        for path in (f"/api/jobs?{SHOW_SECRETS}", f"/api/jobs/{first}", f"/api/compare?job={first}&job={second}")
    ]
    for words in (["list", "--json"], ["show", first], ["show", first, "--json"], ["compare", first, second]):
        assert main(["jobs", *words]) == 0
        shown.append(capsys.readouterr().out)
    for text in shown:
        assert not re.search("q7q|1234", text)
        assert masking.MASK in text or "\\u2022" in text
    params = json.loads(shown[1])["params"]
    assert {name: params[name] for name in PLAIN} == PLAIN
    assert params["url"] == f"postgresql://me:{masking.MASK}@host/db"
    assert json.loads(shown[2])["params"] == {"hf_token": [masking.MASK] * 2}  # that they differ is seen
    assert set(json.loads(shown[1])["hidden"]) == SECRETS.keys()


def test_a_secret_that_comes_back_as_it_was_shown_is_kept(served, made, tmp_path):
    (tmp_path / "script.py").write_text("print('x')")
    job = queue.submit(made, tmp_path / "script.py", {**SECRETS, "lr": 0.1})
    shown = json.loads(served.ask(f"/api/jobs/{job}")[1])["params"]
    code, text = served.change(f"/api/jobs/{job}/again", json.dumps({"params": {**shown, "lr": 0.2, "apiKey": "new"}}))
    assert code == 200
    new = made.find(json.loads(text)["id"])
    assert new["params"] == {**SECRETS, "lr": 0.2, "apiKey": "new"}
    assert new["command"][2:] == queue.arguments(new["params"])
    (tmp_path / "run.yaml").write_text("a: 1\n")
    job = queue.submit(made, tmp_path / "run.yaml", {}, ["model.hub_token=hf_q7q", "training.max_steps=3"])
    shown = json.loads(served.ask(f"/api/jobs/{job}")[1])["params"]
    text = served.change(f"/api/jobs/{job}/again", json.dumps({"params": {**shown, "training.max_steps": 4}}))[1]
    words = made.find(json.loads(text)["id"])["command"]
    assert "model.hub_token=hf_q7q" in words
    assert "training.max_steps=4" in words


@pytest.mark.parametrize("holds_more", [False, True], ids=["of_its_own", "with_other_things"])
def test_the_home_is_this_users_alone_and_made_so_again(home, capsys, holds_more):
    def modes():
        return {path.name: path.stat().st_mode & 0o777 for path in (home, *home.iterdir())}

    os.umask(previous := os.umask(0o022))
    assert previous == 0o022
    Store().close()
    assert modes()["home"] == 0o700
    assert capsys.readouterr().err == ""
    (home / "jobs").mkdir()
    if holds_more:
        (home / "thesis.txt").touch()
    home.chmod(0o755)
    (home / "jobs.db").chmod(0o644)
    Store().close()
    found = modes()
    if holds_more:  # what is not ours stays as it is
        ours = {"jobs": 0o700, "jobs.db": 0o600, "jobs.db.lock": 0o600, "id": 0o600}
        assert found == {"home": 0o755, "thesis.txt": 0o644, **ours}
    else:
        assert found["home"] == 0o700
        assert "it is this user's alone now" in capsys.readouterr().err


def test_the_database_is_this_users_alone(home, made):
    assert (home / "jobs.db").exists()
    assert (home.stat().st_mode & 0o077) == 0
