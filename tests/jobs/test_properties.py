"""Journals that are cut, continued and damaged anywhere: every record that was written whole counts once, in order."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwright.jobs import paths, values
from trainwright.jobs.journal import journal, records
from trainwright.jobs.journal.journal import Direct, Journal, append, read_journal
from trainwright.jobs.store import schema

NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.integers(10**18, 10**20)
TEXTS = st.text('a1{"\\\0\ud800é\u2028', max_size=4)
JSON = st.recursive(
    NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
GOOD = st.sampled_from([1, 2.5, "COMPLETE", "a", {}, {"data": 1.5}, ["x"], None])
NOT_RECORDS = [b"null", b"[]", b'{"k": "zzz"}', b'{"k": "metric", "name": "x"}', b"\xff\x00", b" ", b"{" * 60]
GARBAGE = st.sampled_from(NOT_RECORDS) | st.binary(max_size=40).filter(lambda line: b"\n" not in line)
# what happens to a journal: records by a process that is killed, that ends, or by several; damage; a cut; a look at it
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["session", "killed", "append", "direct"]), st.integers(1, 3)),
        st.tuples(st.just("garbage"), GARBAGE, st.booleans()),
        st.tuples(st.just("cut"), st.integers(1, 150)),
        st.tuples(st.just("look")),
    ),
    min_size=1,
    max_size=12,
)


class Told:
    """A journal that things happen to, what it should hold, and what was read of it."""

    def __init__(self, path, look):
        self.path, self.look = path, look
        self.count = self.seen = 0
        self.lines = []  # (step, byte after the record) of all that was written and not cut
        self.damaged = 0

    def write(self, how, count):
        steps = range(self.count, self.count + count)
        self.count += count
        values = [{"name": f"m{step}", "value": step / 7, "step": step} for step in steps]
        if how in ("session", "killed"):
            one = Journal(self.path)
            for value in values:
                one.add("metric", **value)
            if how == "killed":  # after what it wrote is on the disk
                one.flush()
            (one.abandon if how == "killed" else one.close)()
        else:
            add = Direct(self.path).add if how == "direct" else lambda what, **value: append(self.path, what, **value)
            for value in values:
                add("metric", **value)
        ends = [at for at, byte in enumerate(self.path.read_bytes()) if byte == ord("\n")][-count:]
        self.lines += list(zip(steps, ends, strict=True))

    def damage(self, line, whole):
        if self.path.exists() and line.strip(b" \t\r\n"):  # a line that lost its end has another now
            self.lines = [(step, end) for step, end in self.lines if end < self.path.stat().st_size]
        with self.path.open("ab") as file:
            file.write(line + b"\n" * whole)

    def cut(self, count):
        """Lose the last bytes, but none that was read."""
        size = max(self.path.stat().st_size - count, self.seen)
        with self.path.open("ab") as file:
            file.truncate(size)
        self.lines = [(step, end) for step, end in self.lines if end <= size]

    def happen(self, what):
        kind, *given = what
        if kind == "look":
            self.seen = self.look(self.seen)
        elif kind == "garbage":
            self.damage(*given)
        elif kind == "cut":
            self.cut(*given) if self.path.exists() else None
        else:
            self.write(kind, *given)

    def steps(self):
        """The records that should count in the end, after a last one."""
        self.write("append", 1)
        self.look(self.seen)
        return [step for step, _ in self.lines]


@settings(max_examples=3 * settings().max_examples)
@given(HAPPENINGS, st.integers(150, 400))
def test_every_record_that_was_written_whole_is_read_once_and_in_order(happenings, part):
    found = []

    def look(start):
        while (read := read_journal(path, start)).end > start:
            found.extend(record for record in read.records if record["k"] == "metric")
            start = read.end
        return start

    with tempfile.TemporaryDirectory() as folder, patch.object(journal, "_PART", part):
        path = Path(folder) / "journal.jsonl"
        told = Told(path, look)
        for happening in happenings:
            told.happen(happening)
        assert told.steps() == [record["step"] for record in found]
    assert [(one["name"], one["value"]) for one in found] == [(f"m{one['step']}", one["step"] / 7) for one in found]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples // 2)
@given(happenings=HAPPENINGS)
def test_the_database_holds_every_record_once(store, home, happenings):
    job = uuid.uuid4().hex
    folder = home / "jobs" / job

    def look(start):
        store.move(job, folder)
        return read_journal(folder / paths.JOURNAL, start).end

    told = Told(folder / paths.JOURNAL, look)
    told.write("append", 1)
    for happening in happenings:
        told.happen(happening)
    steps = told.steps()
    assert [row["step"] for row in store.of_job(schema.points, job)] == steps


@settings(max_examples=4 * settings().max_examples)
@given(st.sampled_from(sorted(records._KINDS)), st.data())
def test_a_line_is_a_record_that_the_database_holds_or_a_value_error(kind, data):
    given = {name: data.draw(JSON | GOOD, label=name) for name in records._KINDS[kind] if data.draw(st.booleans())}
    line = json.dumps({"k": kind, **given}).encode()
    try:
        record = records.parse(line)
    except ValueError:
        return
    assert set(record) == {"k", *records._KINDS[kind]}
    again = json.dumps(record, ensure_ascii=False).encode()  # without lone surrogates
    assert b"\\u0000" not in again.replace(b"\\\\", b"")
    assert records.parse(again) == record or "NaN" in again.decode()


@given(JSON)
def test_a_value_that_was_brought_to_json_is_left_as_it_is(value):
    made = values.plain(value)
    again = values.plain(json.loads(json.dumps(made, ensure_ascii=False).encode()))
    assert json.dumps(again) == json.dumps(made)
