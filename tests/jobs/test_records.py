"""What a script gives and what a journal holds: nothing of it ends a script, and no record takes other jobs down."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import pytest

from trainwright.cli.main import main
from trainwright.jobs import paths
from trainwright.jobs.journal import journal
from trainwright.jobs.journal.journal import Journal, read_journal
from trainwright.jobs.store import schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import Tracking, tracked
from trainwright.jobs.worker import health


class Odd:
    """A value whose every view of it fails."""

    def __float__(self):
        raise RuntimeError("several elements")

    __int__ = __str__ = __float__


def circle():
    made = []
    made.append(made)
    return made


GOOD = b'{"k": "metric", "t": 2.0, "name": "good", "value": 1, "step": 1}\n'
BAD = [
    b"\x00\xff noise\n", b"null\n", b"5\n", b'{"a": 1}\n', b'{"k": "metric", "name": "x"}\n', b'{"k": "zzz"}\n',
    b'{"k": [1]}\n', b'{"k": "start", "t": 1}\n', b"[" * 200_000 + b"\n", b"9" * 5000 + b"\n",
    b'{"k": "status", "status": "BROKEN", "t": 1}\n', b'{"k": "progress", "t": 1, "progress": NaN}\n',
    b'{"k": "metric", "name": "x", "value": 1, "step": 1, "t": "x"}\n',
    b'{"k": "metric", "name": "x", "value": "abc", "step": 1, "t": 1}\n',
    b'{"k": "metric", "name": "x", "value": 1, "step": 100000000000000000000, "t": 1}\n',
    b'{"k": "metric", "name": "x", "value": 1' + b"0" * 400 + b', "step": 1, "t": 1}\n',
]  # fmt: skip
MENDED = [
    b'{"k": "metric", "t": 2.0, "name": "a\\udcff", "value": 1, "step": 1}\n',
    b'{"k": "metric", "t": 2.0, "name": "a\\u0000b", "value": NaN, "step": 1}\n',
    b'{"k": "metric", "t": 2.0, "name": "' + b"x" * 300 + b'", "value": 1, "step": 1}\n',
    b'{"k": "event", "t": 2.0, "kind": "' + b"k" * 60 + b'", "text": "\\udcff"}\n',
    b'{"k": "data", "t": 2.0, "name": "d", "value": {"\\udcff": "\\u0000"}}\n',
    b'{"k": "status", "t": 2.0, "status": "FAILED"}\n',
]


def test_no_script_ends_for_a_value_and_every_database_holds_it(store, home, capsys):
    with pytest.raises(ValueError, match="x"), tracked("n\udcff" * 300, {"p\udcff": [1, {(0, 1): circle()}]}) as job:
        for name, value, step in [
            (("a", "b"), 1.0, 1), (None, 1.0, 1), ("s\udcff\0", 1.0, 1), ("n" * 300, 1, 1), ("big", 10**400, 1),
            ("step", 1, 10**20), ("step", 1, 10**21), ("step", 1, "x"), ("text", "x", 1), ("odd", Odd(), 1),
            ("half", 1, 3.5), ("nan", math.nan, 1), ("inf", -math.inf, 1),
        ]:  # fmt: skip
            job.metric(name, value, step)
        job.progress(math.nan)
        job.progress(20, 10, 50)
        job.data("circle", circle())
        job.data(
            "keys", {(0, 1): 5, None: {1, 2}, "odd": Odd(), "many": 10**5000, "deep": json.loads("[" * 90 + "]" * 90)}
        )
        job.data(None, "y" * 5_000_000)
        job.event("kind" * 20, "text\0\udcff")
        raise ValueError("x\udcff\0")
    health.sweep(store)
    found = store.find(job.id)
    assert (found["status"], found["message"]) == ("FAILED", "ValueError: x\\udcff\\x00")
    assert (found["progress"], found["step"], found["total_steps"]) == (20, 10, 50)
    assert found["params"]["p\\udcff"][1].keys() == {"(0, 1)"}
    assert {"('a', 'b')", "None", "s\\udcff\\x00", "nan", "inf"} < store.metric_names(job.id).keys()
    assert not {"big", "step", "half", "text", "odd"} & store.metric_names(job.id).keys()
    assert found["data"]["keys"]["(0, 1)"] == 5
    assert "None" not in found["data"]
    said = capsys.readouterr().err
    assert said.count("the metric 'step' was left out") == 1
    assert "'None' was left out: its value has 5,000,002 bytes, and at most 4,000,000 are kept" in said
    events = [event["text"] for event in store.of_job(schema.events, job.id)]
    assert sum("was left out" in text for text in events) == 7
    json.dumps(found).encode()


def test_a_record_that_is_none_is_told_of_in_its_job_and_takes_nothing_else_down(store, home, capsys):
    lines = [*BAD, *MENDED]
    for number, line in enumerate(lines):
        folder = paths.job_folder(f"j{number}")
        paths.make(folder)
        (folder / paths.JOURNAL).write_bytes(GOOD + line + GOOD)
    (paths.home() / "jobs" / "x").mkdir()
    (paths.home() / "jobs" / "x" / paths.JOURNAL).mkdir()  # no file at all
    health.sweep(store)
    for number, line in enumerate(lines):
        names = [row["name"] for row in store.of_job(schema.points, f"j{number}")]
        assert names.count("good") == 2, line[:80]
        told = [event["text"] for event in store.of_job(schema.events, f"j{number}") if event["kind"] == "journal"]
        assert (len(told) == 1 and f"at byte {len(GOOD)}: " in told[0]) if line in BAD else told == [], line[:80]
    assert store.find("j21")["status"] == "FAILED"
    assert main(["jobs", "list"]) == 0
    assert main(["jobs", "show", "j1"]) == 0
    assert "A line of the journal cannot be read and did not count; at byte 65: null is no record." in (
        capsys.readouterr().out
    )


def test_a_row_that_cannot_be_read_shows_the_others(store):
    for job in ("a", "b"):
        store.submit(job, name=job, experiment="default", command=["python", "x.py"], params={"a": 1})
    with store.engine.begin() as connection:
        rows = schema.jobs.update().where(schema.jobs.c.id == "a")
        connection.execute(rows.values(params="[" * 100_000, data='{"a": "\\udcff"}', moved="no"))
    found = {job["id"]: job for job in store.jobs()}
    assert (found["a"]["params"], found["a"]["data"], found["b"]["params"]) == ({}, {"a": "\\udcff"}, {"a": 1})
    health.sweep(store)


def test_a_long_journal_is_moved_in_parts(store, home, monkeypatch):
    monkeypatch.setattr(journal, "_PART", 1000)
    folder = paths.job_folder("long")
    paths.make(folder)
    path = folder / paths.JOURNAL
    lines = [GOOD.replace(b'"step": 1', b'"step": %d' % step) for step in range(200)]
    path.write_bytes(b"".join(lines[:100]) + b"x" * 2500 + b"\n" + b"".join(lines[100:]) + b"torn")
    assert max(len(read_journal(path, at).records) for at in range(0, 10_000, 1000)) < 20
    health.sweep(store)
    assert [step for step, _, _ in store.metric("long", "good")] == list(range(200))
    assert store.find("long")["moved"] == {paths.home_id(home): path.stat().st_size - len("torn")}
    assert all("cannot be read" in event["text"] for event in store.of_job(schema.events, "long"))


FULL = """
import resource, sys, time
from pathlib import Path
from trainwright.jobs.journal.journal import Journal
from trainwright.jobs.journal import journal
journal._MOST_WAITING = int(sys.argv[2])
made = Journal(Path(sys.argv[1]))
made.add("event", kind="first", text="")
time.sleep(0.5)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))  # no byte beyond, as on a full disk
for step in range(100):
    made.add("metric", name="loss", value=1.0, step=step)
    time.sleep(0.01)
time.sleep(0.5)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
time.sleep(0.5)
made.add("status", status="COMPLETE", message=None, traceback=None)
made.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [10_000_000, 3000])
def test_a_full_disk_keeps_records_in_memory(tmp_path, room):
    path = tmp_path / "home" / "jobs" / "full" / "job.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, path, str(room)], capture_output=True, text=True, check=True)
    assert done.stderr.count("cannot be written (File too large); what happens is kept in memory until it can") == 1
    part = read_journal(path)
    assert part.damaged == 0
    assert part.records[-1]["k"] == "status"
    (said,) = [record["text"] for record in part.records if record.get("kind") == "journal"]
    steps = [record["step"] for record in part.records if record["k"] == "metric"]
    if room > 3000:
        assert steps == list(range(100))
        assert said.endswith("(File too large); nothing was lost.")
    else:
        assert steps == list(range(len(steps)))
        assert f"{100 - len(steps)} records did not fit into memory." in said


def test_what_was_written_after_a_torn_line_is_whole(tmp_path):
    path = tmp_path / "home" / "jobs" / "torn" / "job.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD + GOOD[:20])  # its writer was killed
    made = Journal(path)
    made.add("event", kind="a", text="b")
    made.close()
    part = read_journal(path)
    assert [record["k"] for record in part.records] == ["metric", "event"]
    assert part.damaged == 1


def test_of_progress_the_newest_word_is_kept_and_comes_before_the_end(store, home):
    job = Tracking("often", {}, "a job")
    for step in range(10_000):
        job.progress(step / 100, step, 10_000)
    job.end("COMPLETE")
    told = [record for record in read_journal(job.folder / paths.JOURNAL).records if record["k"] == "progress"]
    assert told[-1]["step"] == 9999
    assert len(told) < 50
    assert store.find("often")["progress"] == 99.99


def test_the_journal_of_a_script_that_changes_what_it_gave(store, home):
    with tracked("a script") as job:
        value = {"a": 1}
        job.data("value", value)
        value |= {number: number for number in range(100)}
        time.sleep(0.3)
    assert store.find(job.id)["data"] == {"value": {"a": 1}}
    assert Store(store.url).find(job.id)["status"] == "COMPLETE"
