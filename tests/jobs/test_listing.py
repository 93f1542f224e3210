"""Lists: the pages, filters and orders of the database are those of Python over all rows, at a cost that stays."""

from __future__ import annotations

import json
import math
import operator
import random

import pytest
import sqlalchemy as sql
from starlette.datastructures import Headers, QueryParams

from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.journal.journal import append
from trainwright.jobs.store import listing, schema
from trainwright.jobs.web import files
from trainwright.jobs.web.feed import Feed
from trainwright.jobs.web.server import Api
from trainwright.jobs.worker import health

KEYS = ["param:lr", "param:name", "param:flag", "param:model.layers", "last:loss", "least:loss", "greatest:loss",
        "progress", "created", "id", "status"]  # fmt: skip
_NUMBERS = ("last:loss", "least:loss", "greatest:loss", "progress", "created")
MEANS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
         "~": lambda one, other: other.lower() in one.lower()}  # fmt: skip


def filled(home, store, count, seed=0):
    """Jobs of many kinds, as their journals tell them; returns what each has by key."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        job = f"j{number:05}"
        params = {"lr": rng.choice([1e-3, 3e-4, 1, 10, "auto"]), "flag": rng.random() < 0.5}
        params |= {"name": rng.choice(["Ärger", "plain_%", "10", "ten"])} if rng.random() < 0.7 else {}
        params |= {"model": {"layers": rng.randrange(4)}} if rng.random() < 0.7 else {}
        losses = [rng.choice([rng.random(), math.nan]) for _ in range(rng.randrange(4))]
        words = [("start", {"t": 1000 + number // 2, "name": f"job {number % 7}", "experiment": f"e{number % 3}",
                            "params": params, "pid": 1, "host": "elsewhere"})]  # fmt: skip
        words += [
            ("metric", {"t": 2000, "name": "loss", "step": step, "value": one}) for step, one in enumerate(losses)
        ]
        words += [("progress", {"t": 2000, "progress": number % 100})]
        words += [("status", {"t": 3000, "status": ended})] if (ended := rng.choice(["COMPLETE", "FAILED", ""])) else []
        folder = home / "jobs" / job
        folder.mkdir(parents=True)
        (folder / paths.JOURNAL).write_text("".join(json.dumps({"k": kind, **told}) + "\n" for kind, told in words))
        good = [one for one in losses if not math.isnan(one)]
        none = math.nan if losses else None  # of values that are no number, the least is none either
        last = losses[-1] if losses else None
        found.append(
            {"id": job, "created": 1000 + number // 2, "progress": number % 100, "status": ended or "RUNNING",
             "experiment": f"e{number % 3}", "text": f"{job} job {number % 7} e{number % 3} {json.dumps(params)}",
             "param:lr": params["lr"], "param:flag": json.dumps(params["flag"]), "param:name": params.get("name"),
             "param:model.layers": params.get("model", {}).get("layers"), "last:loss": last,
             "least:loss": min(good, default=none), "greatest:loss": max(good, default=none)}
        )  # fmt: skip
    store.move_all()
    return found


def fulfils(job, key, sign, value):
    """Whether a job fulfils a filter: numbers are compared with numbers, texts with texts."""
    mine = job[key]
    if mine is None:
        return False
    given = float(value) if value.replace(".", "", 1).replace("-", "", 1).replace("e", "").isdecimal() else None
    if isinstance(mine, int | float) and sign != "~":
        return (sign == "!=") if given is None else MEANS[sign](mine, given)
    if sign == "~":
        return MEANS[sign](json.dumps(mine) if isinstance(mine, int | float) else mine, value)
    if given is not None and key.startswith("param:") and sign not in ("=", "!="):
        return False
    return MEANS[sign](mine, value)


def in_order(jobs, key, is_down):
    """Numbers, then texts, then those without, nan too; of equal ones the newest first."""
    jobs = sorted(jobs, key=lambda job: (-job["created"], job["id"]))
    are_numbers = [job for job in jobs if isinstance(job[key], int | float) and not math.isnan(job[key])]
    numbers = sorted(are_numbers, key=lambda job: job[key], reverse=is_down)
    texts = sorted([job for job in jobs if isinstance(job[key], str)], key=lambda job: job[key], reverse=is_down)
    return [*numbers, *texts, *[job for job in jobs if job[key] is None or job[key] != job[key]]]


@pytest.mark.slow  # hundreds of lists
def test_filters_and_orders_are_those_of_python_over_all_rows(store, home):
    jobs = filled(home, store, 150)
    rng = random.Random(1)
    filters = [(key, sign, value) for key in KEYS for sign in MEANS
               for value in ("0.001", "1", "10", "0.5", "auto", "true", "FAILED", "j0001")
               if not (sign == "~" and not key.startswith("param:") and key not in ("id", "status"))
               and not (key in _NUMBERS and value in ("auto", "true", "FAILED", "j0001"))
               and not (sign in "<=>=" and key in ("param:name", "param:lr") and value == "auto")]  # fmt: skip
    is_c = store.engine.dialect.name == "sqlite"  # PostgreSQL sorts texts as the language does
    for _ in range(120):
        chosen = rng.sample(filters, rng.choice([0, 1, 1, 2]))
        statuses = rng.choice([(), ("RUNNING",), ("FAILED", "COMPLETE")])
        experiment = rng.choice([None, "e1"])
        text = rng.choice(["", "", "JOB 3", "%", "ärger", "auto", "j0002"])
        key, is_down = rng.choice(KEYS), rng.random() < 0.5
        size, start = rng.choice([5, 50, 200]), rng.choice([0, 3, 10])
        wanted = [job for job in jobs if all(fulfils(job, *one) for one in chosen)
                  and job["status"] in (statuses or {job["status"]}) and experiment in (None, job["experiment"])
                  and text.lower() in job["text"].lower().replace("\\u00c4", "ä")]  # fmt: skip
        wanted = in_order(wanted, key, is_down)
        query = listing.Query(
            text,
            statuses,
            experiment,
            ["".join(one) for one in chosen],
            f"-{key}" if is_down else key,
            size,
            start,
            KEYS,
        )
        found = store.read(listing.page, query)
        names = [job["id"] for job in found["jobs"]]
        assert found["total"] == len(wanted), query
        if is_c or key != "param:name":
            assert names == [job["id"] for job in wanted[start : start + size]], query
    by_name = {job["id"]: job for job in jobs}
    for job in store.read(listing.page, listing.Query(limit=200, show=KEYS))["jobs"]:
        expected = {
            key: None if (one := by_name[job["id"]][key]) != one else one for key in KEYS
        }  # nan is shown as none
        assert job["values"] == pytest.approx(expected)
    assert sum(found["counts"].values()) == 150


def test_values_of_filters_are_read_as_python_writes_them(store, home):
    """Numbers with any exponent; a text that is written like a number is a text too; Python's True and None."""
    params = {"lr": 5.0, "version": "1.0", "flag": True, "none": None, "tags": ["ü"], "huge": 10**400}
    words = {"t": 1000, "name": "one", "experiment": "e", "params": params, "pid": 1, "host": "elsewhere"}
    folder = home / "jobs" / "one"
    folder.mkdir(parents=True)
    (folder / paths.JOURNAL).write_text(
        "".join(
            json.dumps(line) + "\n"
            for line in ({"k": "start", **words}, {"k": "metric", "t": 1, "name": "loss", "step": 1, "value": 2.0})
        )
    )
    store.move_all()
    for where, there in (
        ("param:lr<1e3", 1), ("last:loss<1E3", 1), ("last:loss<inf", 1), ("last:loss<1e0", 0), ("param:lr=5", 1),
        ("param:version=1.0", 1), ("param:version!=1.0", 0), ("param:version=1", 0), ("param:flag=True", 1),
        ("param:flag=TRUE", 1), ("param:flag=false", 0), ("param:none=None", 1), ("param:tags~ü", 1),
        ("param:lr<" + "9" * 400, 1),
    ):  # fmt: skip
        assert store.read(listing.page, listing.Query(where=[where]))["total"] == there, where


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("param:lr", "is no filter"),
        ("nme=1", "Did you mean 'name'"),
        ("last:loss<1,5", "'1,5' is no number"),
        ("progress=nan", "'nan' is no number"),
    ],
)
def test_a_filter_that_is_none_is_told(store, where, said):
    with pytest.raises(JobError, match=said):
        store.read(listing.page, listing.Query(where=[where]))


@pytest.mark.parametrize("mark", ["\0", "\ud800"])
def test_what_no_database_holds_is_looked_for_as_it_was_kept(store, home, mark):
    """Zero bytes and lone surrogates are kept as Python writes them, and found by themselves."""
    name = f"a{mark}b"
    words = {"name": name, "experiment": name, "params": {"q": name}, "pid": 1, "host": "elsewhere"}
    folder = home / "jobs" / "one"
    append(folder / paths.JOURNAL, "start", **words)
    append(folder / paths.JOURNAL, "metric", name=name, value=2.0, step=1)
    store.move_all()
    queries = [({"where": [where]}, there) for where, there in (
        (f"param:q~{mark}", 1), (f"param:q={name}", 1), (f"name~{mark}", 1), (f"name={name}", 1), (f"id={mark}", 0),
        (f"last:{name}=2", 1),
    )]  # fmt: skip
    for query, there in [*queries, ({"text": mark}, 1), ({"experiment": name}, 1), ({"statuses": [mark]}, 0)]:
        assert store.read(listing.page, listing.Query(**query))["total"] == there, query
    asked = Asked([("name", name)])
    asked.path_params = {"job": "one"}
    assert Api(store).metrics(asked) == {name: [(1, 2.0)]}
    assert store.read(listing.of_ids, [mark]) == []


class Asked:
    """A request of a page, as `Api` reads it."""

    def __init__(self, words="", **headers):
        self.query_params, self.headers = QueryParams(words), Headers(headers)


@pytest.fixture
def queries(store):
    """The queries that were made since it was emptied."""
    found = []

    @sql.event.listens_for(store.engine, "after_cursor_execute")
    def note(_connection, _cursor, statement, *_):
        if not statement.startswith("BEGIN"):
            found.append(statement)

    return found


def test_a_page_costs_the_same_however_many_jobs_there_are(store, home, queries, monkeypatch):
    """Queries made, bytes sent, journals looked at: for 60 jobs and for 240."""
    costs = []
    looked = []
    move_named = type(store)._move_named
    monkeypatch.setattr(type(store), "_move_named", lambda self, names, moved: move_named(
        self, looked.extend(names := [*names]) or names, moved))  # fmt: skip
    for seed, count in enumerate((60, 180)):
        home = home.parent / f"home{seed}"
        monkeypatch.setenv("TRAINWRIGHT_HOME", str(home))
        filled_into(home, store, count, seed)
        api = Api(store)
        api.sweep()
        monkeypatch.setattr(store._looks, "_next", math.inf)
        health.sweep(store, again=True)
        del queries[:], looked[:]
        first = api.look(Asked(), None)
        told = Feed().news(**first.found)
        page = (len(queries), len(looked))
        del queries[:], looked[:]
        api._swept = -math.inf
        assert api.look(Asked(), first).found is first.found  # nothing has changed, and no list was read
        costs.append((page, len(queries), len(looked), len(told["jobs"])))
        assert len(json.dumps(told)) < 50 * 400
    assert costs[0] == costs[1]
    assert costs[0][2] == 0  # no job runs
    assert costs[0][1] <= 3


def filled_into(home, store, count, seed):
    for number in range(count):
        folder = home / "jobs" / f"s{seed}-{number}"
        for kind, told in (("start", {"name": "a", "params": {"x": "y" * 1000}, "pid": 1, "host": "elsewhere"}),
                           ("status", {"status": "COMPLETE"})):  # fmt: skip
            append(folder / paths.JOURNAL, kind, **told)
    store.move_all()


def test_only_what_has_changed_is_told(store, home):
    filled(home, store, 60)
    api, feed = Api(store), Feed()
    seen = api.look(Asked("status=RUNNING&limit=5"), None)
    told = feed.news(**seen.found)
    assert told["first"]
    assert len(told["jobs"]) == len(told["order"]) == 5
    assert feed.news(**api.look(Asked("status=RUNNING&limit=5"), seen).found) == {}
    one, other = told["order"][:2]
    store.heartbeat(one, None)
    store.update(other, progress=77.0)
    seen = api.look(Asked("status=RUNNING&limit=5"), seen)
    assert [(job["id"], job["progress"]) for job in feed.news(**seen.found).pop("jobs")] == [(other, 77.0)]
    store.update(one, status="COMPLETE")
    news = feed.news(**api.look(Asked("status=RUNNING&limit=5"), seen).found)
    assert set(news) == {"jobs", "order", "total", "counts"}
    assert one not in news["order"]
    assert len(news["jobs"]) == 1  # the one that came in
    store.remove(other)
    assert other not in feed.news(**api.look(Asked("status=RUNNING&limit=5"), None).found)["order"]


def test_a_list_that_has_not_changed_is_not_sent_again(store, home):
    filled(home, store, 3)
    api = Api(store)
    found = api.jobs(Asked())
    assert api.jobs(Asked(**{"if-none-match": f'"{found["version"]}"'})) is None
    store.update("j00001", progress=1.0)
    again = api.jobs(Asked(**{"if-none-match": f'"{found["version"]}"'}))
    assert again["version"] == found["version"] + 1


def test_a_watched_job_tells_of_its_log_too(store, home):
    filled(home, store, 2)
    api = Api(store)
    seen = api.look(Asked("job=j00001&job=gone"), None)
    assert [(job["id"], job["log"]) for job in seen.found["jobs"]] == [("j00001", 0)]
    (home / "jobs" / "j00001" / paths.LOG).write_text("words")
    assert api.look(Asked("job=j00001"), seen).found["jobs"][0]["log"] == 5
    assert files.log_bytes(str(home / "nowhere")) == 0


def test_a_journal_that_nobody_moves_is_found(store, home):
    """Of a job that is new, that runs, and, with the next look at all, that had ended."""
    filled(home, store, 4)
    health.sweep(store, again=True)
    store._looks._next = math.inf
    told = {"name": "new", "params": {}, "pid": 1, "host": "elsewhere"}
    paths.make(home / "jobs" / "late")
    health.sweep(store, again=True)  # its folder is there before its journal
    append(home / "jobs" / "late" / paths.JOURNAL, "start", **told)
    health.sweep(store, again=True)
    assert store.find("late")["name"] == "new"
    append(home / "jobs" / "late" / paths.JOURNAL, "status", status="COMPLETE")
    health.sweep(store, again=True)
    assert store.find("late")["status"] == "COMPLETE"
    append(home / "jobs" / "late" / paths.JOURNAL, "event", kind="note", text="after the end")
    health.sweep(store, again=True)
    assert store.of_job(schema.events, "late") == []
    store._looks.took(0.0)
    store._looks._next -= 2
    health.sweep(store, again=True)
    assert [one["text"] for one in store.of_job(schema.events, "late")] == ["after the end"]


def test_the_command_lists_a_page(home, store, capsys, monkeypatch):
    monkeypatch.setattr(health, "_WATCH_SECONDS", 0.0)  # for which jobs of another machine are looked at
    filled(home, store, 60)
    assert main(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 52
    assert "50 of 60; --offset 50 shows those before them." in out
    assert main(["jobs", "list", "--offset", "50", "--limit", "20"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 11
    assert main(["jobs", "list", "--offset", "70"]) == 0
    assert "There are 60 such jobs, and --offset 70 leaves out all of them." in capsys.readouterr().out
    assert main(["jobs", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 60


@pytest.mark.parametrize("option", [["list", "--limit"], ["list", "--offset"], ["metrics", "a", "--attempt"]])
def test_numbers_that_no_database_holds_are_refused_by_commands(home, capsys, option):
    with pytest.raises(SystemExit):
        main(["jobs", *option, "99999999999999999999"])
    assert "99999999999999999999 is too great; at most 2147483647 is expected" in capsys.readouterr().err
