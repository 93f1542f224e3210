"""Queries as a person writes them: what they mean, what is wrong with one, and which jobs a command means by them."""

from __future__ import annotations

import json
import math

import pytest

from tests.jobs.test_listing import Asked
from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.finding import language
from trainwright.jobs.finding.language import Both, Comparison, Not
from trainwright.jobs.store import listing
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import list_api
from trainwright.jobs.web.answers import as_json
from trainwright.jobs.web.server import Api
from trainwright.jobs.worker import labels


def C(text):
    return Comparison(*text.split())


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("lr > 1e-4 and loss < 2", Both((C("lr > 1e-4"), C("loss < 2")))),
        ("lr>1e-4 AND loss<2", Both((C("lr > 1e-4"), C("loss < 2")))),
        ("a = 1 or b = 2 and c = 3", Both((C("a = 1"), Both((C("b = 2"), C("c = 3")))), any_of=True)),
        ("(a = 1 or b = 2) and c == 3", Both((Both((C("a = 1"), C("b = 2")), any_of=True), C("c = 3")))),
        ("not not a != 1", Not(Not(C("a != 1")))),
        ("status in (FAILED, LOST)", Both((C("status = FAILED"), C("status = LOST")), any_of=True)),
        ("name ~ 'two words' ", Comparison("name", "~", "two words")),
        ("\"a b\" !~ 'and'", Comparison("a b", "!~", "and")),
        ("last:eval/loss <= -.5", C("last:eval/loss <= -.5")),
    ],
)
def test_what_a_query_says(query, said):
    assert language.read(query) == said


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "a name is expected at its end"),
        ("lr", "one of = != < <= > >= ~ !~ after 'lr' is expected at its end"),
        ("lr >", "a value after '>' is expected at its end; such as lr > 1e-4 and loss < 2"),
        ("lr > and", "a value after '>' is expected at 'and', its character 6"),
        ("lr > 1 loss < 2", "'and', 'or' or the end is expected at 'loss', its character 8"),
        ("(lr > 1", r"'\)' is expected at its end"),
        ("lr > 1)", r"'and', 'or' or the end is expected at '\)', its character 7"),
        ("lr ! 1", "a mark that is none, '!'"),
        ("name ~ 'a", "or a quote that is not closed"),
        ("status in FAILED", r"'\(' is expected at 'FAILED'"),
        (f"{'(' * 60}lr = 1{')' * 60}", "more than 20 brackets in brackets"),
        (f"{'not ' * 2000}lr = 1", "more than 20 brackets in brackets"),
        (" and ".join(["lr = 1"] * 300), "more than 400 names and values"),
    ],
)
def test_what_is_wrong_with_one(query, said):
    with pytest.raises(JobError, match=said):
        language.read(query)


RUNS = {  # name: parameters, default learning rate, metrics
    "fast": ({"training.learning_rate": 1e-3, "data": "x"}, 5e-5, {"train/loss": [4.0, 1.0], "eval/loss": [3.0]}),
    "usual": ({"data": "y"}, 5e-5, {"train/loss": [3.0, 2.5]}),
    "script": ({"lr": 0.01, "data": "x"}, None, {"loss": [9.0, 1.5], "eval/loss": [1.0], "eval/accuracy": [0.5]}),
    "bare": ({}, None, {}),
}


def tell(home, names=RUNS, **more):
    for number, (name, (params, rate, metrics)) in enumerate(RUNS.items()):
        if name not in names:
            continue
        told = {
            "t": 1000.0 + number,
            "name": name,
            "experiment": "e",
            "params": {**params, **more},
            "pid": 1,
            "host": "h",
        }
        defaults = None if rate is None else {"training.learning_rate": rate, "training.max_steps": -1}
        words = [{"k": "start", **told, "defaults": defaults}]
        words += [{"k": "metric", "t": 1500.0, "name": one, "step": step, "value": value}
                  for one, values in metrics.items() for step, value in enumerate(values)]  # fmt: skip
        words += [{"k": "status", "t": 2000.0, "status": "COMPLETE"}]
        folder = home / "jobs" / f"id{number}"
        folder.mkdir(parents=True)
        (folder / paths.JOURNAL).write_text("".join(json.dumps(one) + "\n" for one in words))


def found(store, query, **more):
    page = store.read(listing.page, listing.Query(query=query, **{"sort": "created", **more}))
    assert page["total"] == len(page["jobs"])
    return [job["name"] for job in page["jobs"]]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("lr > 1e-4", ["fast", "script"]),  # what is given
        ("learning_rate < 1e-4", ["usual"]),  # and what is as by default
        ("lr <= 5e-5 or lr >= 0.01", ["usual", "script"]),
        ("max_steps = -1", ["fast", "usual"]),
        ("loss < 2", ["fast", "script"]),  # train/loss where a Trainer told it
        ("loss < 2 and lr < 0.005", ["fast"]),
        ("greatest:loss > 5", ["script"]),
        ("eval/loss <= 1", ["script"]),
        ("accuracy = 0.5", ["script"]),
        ("not loss < 2", ["usual", "bare"]),
        ("data = x and not name = fast", ["script"]),
        ("name in (fast, bare)", ["fast", "bare"]),
        ("created > 1970-01-02", []),
        ("created < 1d", ["fast", "usual", "script", "bare"]),
    ],
)
def test_which_jobs_a_query_finds(store, home, query, names):
    tell(home)
    store.move_all()
    assert found(store, query) == names


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("learning_rte > 1", "No job has a parameter or a metric 'learning_rte'. Did you mean 'learning_rate'?"),
        ("statsu = FAILED", "Did you mean 'status'?"),
        ("loss < low", "'low' is no number"),
        ("created > soon", "'soon' is no time: a day is, 2026-11-28, or so long ago, 3d or 12h"),
        ("loss <= NaN", "Nothing is <= nan; compare with it by = or !="),
        ("loss ~ 1.5", "~ looks for a part of a text, such as '1.5', and this is a number"),
    ],
)
def test_a_query_that_names_nothing_is_told(store, home, query, said):
    tell(home)
    store.move_all()
    with pytest.raises(JobError, match=said):
        store.read(listing.page, listing.Query(query=query))


def test_nan_and_infinity_are_values_of_parameters_and_metrics(store, home):
    tell(home, ["fast"], cap=1.0, rate=1.0)
    tell(home, ["script"], cap=math.inf, rate=math.nan)
    with (home / "jobs" / "id2" / paths.JOURNAL).open("a") as journal:
        journal.write('{"k": "metric", "t": 1600.0, "name": "loss", "step": 9, "value": NaN}\n')
    store.move_all()
    infinite = ("cap = inf", "cap > 3", "loss = nan", "loss != 1", "not loss < 5", "rate = nan", "rate != 1")
    assert {query: found(store, query) for query in infinite} == dict.fromkeys(infinite, ["script"])
    usual = ("cap < inf", "cap != inf", "loss != nan", "loss < 5", "rate != nan", "rate > 0")
    assert {query: found(store, query) for query in usual} == dict.fromkeys(usual, ["fast"])
    told = json.loads(as_json(store.find("script")["params"]))
    assert (told["cap"], told["rate"], told["lr"]) == ("inf", "nan", 0.01)


def test_a_name_that_ends_several_is_told_with_them(store, home):
    tell(home)
    store.move_all()
    folder = home / "jobs" / "other"
    folder.mkdir()
    params = {"a.depth": 1, "b.depth": 2}
    start = {"k": "start", "t": 1.0, "name": "o", "params": params, "pid": 1, "host": "h"}
    (folder / paths.JOURNAL).write_text(json.dumps(start) + "\n")
    store.move_all()
    with pytest.raises(JobError, match="'depth' is the end of several names: a.depth, b.depth; write one of them"):
        store.read(listing.page, listing.Query(query="depth = 1"))
    assert found(store, "b.depth = 2") == ["o"]


def test_lists_are_sorted_and_grouped_and_show_by_the_same_names(store, home):
    tell(home)
    store.move_all()
    assert found(store, "", sort="-lr") == ["script", "fast", "usual", "bare"]
    assert found(store, "", sort="loss") == ["fast", "script", "usual", "bare"]
    page = store.read(listing.page, listing.Query(sort="name", group="data", show=["lr", "loss", "folder"]))
    assert [job["name"] for job in page["jobs"]] == ["fast", "script", "usual", "bare"]
    assert page["groups"] == [{"value": "x", "count": 2}, {"value": None, "count": 1}, {"value": "y", "count": 1}] or (
        {(one["value"], one["count"]) for one in page["groups"]} == {("x", 2), ("y", 1), (None, 1)}
    )
    assert [(job["values"]["data"], job["values"]["lr"], job["values"]["loss"]) for job in page["jobs"]] == [
        ("x", 1e-3, 1.0), ("x", 0.01, 1.5), ("y", 5e-5, 2.5), (None, None, None),
    ]  # fmt: skip
    assert page["jobs"][0]["values"]["folder"] == str(home / "jobs" / "id0")
    with pytest.raises(JobError, match="'loss' is a metric; jobs are grouped by a column"):
        store.read(listing.page, listing.Query(group="loss"))
    assert store.read(listing.choices)["metrics"] == ["eval/accuracy", "eval/loss", "loss", "train/loss"]
    assert "training.learning_rate" in store.read(listing.choices)["params"]


def test_tags_and_notes_are_found_outlive_the_database_and_are_given_to_several(store, home):
    tell(home)
    store.move_all()
    for name in ("fast", "usual"):
        labels.do(store, store.find(name), "tag", "größer, besser")
        labels.do(store, store.find(name), "tag", "old")
    labels.do(store, store.find("fast"), "untag", "old")
    labels.do(store, store.find("fast"), "note", "the one that we keep")
    for made in (store, Store(f"sqlite:///{home / 'new.db'}")):
        assert found(made, "tag = 'größer, besser'") == ["fast", "usual"]
        assert found(made, "tag = old") == ["usual"]
        assert found(made, "tag = ol") == []
        assert found(made, "tags ~ ol and not name = bare") == ["usual"]
        assert found(made, "note ~ KEEP") == ["fast"]
        assert found(made, "", text="besser") == ["fast", "usual"]
        assert made.find("fast")["tags"] == ["größer, besser"]
    page = store.read(listing.page, listing.Query(sort="created"))["jobs"]
    assert page[0]["note"] == "the one that we keep"
    assert "tags" not in page[2]
    page = store.read(listing.page, listing.Query(sort="created", show=["tag"], group="tags"))
    assert {job["values"]["tag"] for job in page["jobs"]} == {"größer, besser", "größer, besser, old", None}
    assert {one["value"] for one in page["groups"]} == {"größer, besser", "größer, besser, old", None}


def test_several_are_changed_at_once_and_why_not_is_told(store, home):
    tell(home)
    store.move_all()
    asked = Asked()
    told = list_api.change(store, asked, {"do": "tag", "text": "good", "jobs": ["id0", "id1", "gone"]})
    assert told["done"] == ["id0", "id1"]
    assert "There is no job 'gone'" in told["failed"]["gone"]
    assert found(store, "tag = good") == ["fast", "usual"]
    store.update("id0", status="RUNNING")
    told = list_api.change(store, asked, {"do": "remove", "jobs": ["id0", "id1"]})
    assert (told["done"], list(told["failed"])) == (["id1"], ["id0"])
    assert "stop it first" in told["failed"]["id0"]
    assert not (home / "jobs" / "id1").exists()
    assert list_api.change(store, asked, {"do": "stop", "jobs": ["id0"]})["done"] == ["id0"]
    assert store.find("id0")["stop_requested"] is not None
    for wrong in ({}, {"do": "burn", "jobs": []}, {"do": "tag", "jobs": "id0"}, {"do": "stop", "jobs": ["../x"]}, []):
        with pytest.raises(list_api.Malformed):
            list_api.change(store, asked, wrong)


def test_a_page_with_a_query_costs_no_more_queries_however_many_jobs_there_are(store, home):
    from sqlalchemy import event

    made = []
    event.listen(store.engine, "after_cursor_execute", lambda *given: made.append(given[2]))
    costs = []
    words = "q=lr>1e-9&sort=-loss&show=lr&show=loss&group=data"
    for names in (["fast", "script"], ["usual", "bare"]):
        tell(home, names)
        store.move_all()
        made.clear()
        Api(store).look(Asked(words), None)
        costs.append(len([one for one in made if one.startswith(("SELECT", "WITH"))]))
    assert costs[1] <= costs[0] + 4  # a name that has come to be a default too
    assert costs[1] < 60


def test_commands_take_names_queries_and_columns(home, capsys):
    tell(home)
    Store().move_all()
    assert main(["jobs", "list", "lr > 1e-4", "--columns", "lr,loss,created", "--sort", "lr"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["lr", "loss", "created"]
    assert first.split()[:2] == ["id0", "fast"]
    assert "0.01" in second
    assert main(["jobs", "list", "lr > 1e-4", "--sort", "-lr"]) == 0  # argparse takes that for an option
    assert capsys.readouterr().out.splitlines()[1].split()[1] == second.split()[1]
    assert main(["jobs", "list", "lr >"]) == 2
    assert "a value after '>' is expected" in capsys.readouterr().err
    assert main(["jobs", "tag", "keep", "--where", "loss < 2"]) == 0
    assert capsys.readouterr().out == "id2 has the tags keep.\nid0 has the tags keep.\n"
    assert main(["jobs", "list", "--group", "data"]) == 0
    out = capsys.readouterr().out
    assert "data = x" in out
    assert "data = none" in out
    assert "keep" in out
    assert main(["jobs", "show", "fast"]) == 0
    assert "keep" in capsys.readouterr().out
    assert main(["jobs", "note", "fast", "ours"]) == 0
    assert Store().find("fast")["note"] == "ours"
    assert main(["jobs", "rm", "--where", "not tag = keep"]) == 0
    assert [job["name"] for job in Store().jobs()] == ["script", "fast"]
    assert main(["jobs", "rm"]) == 2
    assert "Name jobs, or give --where QUERY" in capsys.readouterr().err
    Store().update("id0", status="QUEUED")
    assert main(["jobs", "rm", "fast", "script"]) == 2  # that one waits keeps no other
    told = capsys.readouterr()
    assert "id2 is removed." in told.out
    assert "id0 is QUEUED; stop it first" in told.err


def test_a_name_that_several_jobs_have_is_told_with_their_ids(home, capsys):
    tell(home)
    store = Store()
    store.move_all()
    store.update("id1", name="fast")
    assert main(["jobs", "show", "fast"]) == 2
    said = "2 jobs are called 'fast': id1 (COMPLETE), id0 (COMPLETE). Name one by its id."
    assert said in capsys.readouterr().err


def test_of_a_long_cell_the_beginning_and_the_end_are_printed(home, capsys):
    tell(home, prompt="begin " + "very long " * 2000 + "end")
    store = Store()
    store.move_all()
    store.submit("other", name="other", experiment="e", command=["python", "x.py"], params={})
    assert main(["jobs", "compare", "fast", "other"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("prompt"))
    assert "begin very long" in line
    assert "very long end" in line
    assert len(line) < 200
