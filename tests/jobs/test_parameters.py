"""What a person wrote arrives as it was written: on the command line, in a file, through the queue, begun again."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import paths, written
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import params
from trainwright.jobs.tracking.decorator import TrainerJob
from trainwright.jobs.tracking.tracking import tracked
from trainwright.jobs.worker import queue

TEXTS = [
    "3e563",
    "0010",
    "2024_01_02",
    "67217e15",
    "TRUE",
    "yes",
    "nan",
    "inf",
    "1e999",
    "1.5e-999",
    "00.5",
    "1e5",
    "٣",
    "0x10",
    "+",
    ".",
    "1_0",
    " 7",
    "",
    "null",
    "None",
    "9" * 5000,
]
NUMBERS = {
    "7": 7,
    "-3": -3,
    "0": 0,
    "1.10": 1.1,
    ".5": 0.5,
    "0.10": 0.1,
    "2.": 2.0,
    "1e-4": 1e-4,
    "1.5e3": 1500.0,
    "-2E+2": -200.0,
    "0.0e-9": 0.0,
    "true": True,
    "False": False,
    "12345678901234567890123": 12345678901234567890123,
}


def new_parser():
    parser = params.Parser()
    parser.add_argument("-n", "--number", type=int, default=1)
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction)
    parser.add_argument("--no-cache", dest="cache", action="store_false")
    parser.add_argument("--flag", type=bool)
    parser.add_argument("--commit", type=str)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--layers", type=list)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tags", action="append", default=["a"])
    return parser


def read(tmp_path, words=(), file=None, parser=None):
    if file is not None:
        (tmp_path / "in.json").write_text(json.dumps(file))
        words = ["--input_file", str(tmp_path / "in.json"), *words]
    return params.read(parser or new_parser(), list(words), None)


def test_a_text_is_a_number_only_where_it_can_be_nothing_else():
    assert [written.guessed(text) for text in TEXTS] == TEXTS
    found = {text: written.guessed(text) for text in NUMBERS}
    assert found == NUMBERS
    assert [type(one) for one in found.values()] == [type(one) for one in NUMBERS.values()]


@pytest.mark.slow
@pytest.mark.parametrize("text", [*TEXTS[:12], *NUMBERS])
def test_a_script_of_its_own_gets_the_text_as_python_would_give_it(home, tmp_path, text, monkeypatch):
    (tmp_path / "a.py").write_text("")
    assert main(["jobs", "submit", "a.py", "--param", f"the-tag={text}"]) == 0
    (job,) = Store().jobs()
    assert job["command"][2:] == [f"--the-tag={text}"]
    assert job["params"] == {"the_tag": text}


def test_a_default_declares_and_what_was_written_is_shown(tmp_path):
    found = read(
        tmp_path, ["--shard=0010", "--version=1.10", "--quiet=yes", "--rate", "1e5", "--from=checkpoint-5", "--x"]
    )
    assert [found.shard, found.version, found.quiet, found.rate, found.x] == ["0010", 1.1, "yes", "1e5", True]
    assert found.get("shard", "") == "0010"
    assert found.get("shard", 1) == 10
    assert found.get("version", "") == "1.10"
    assert found.get("quiet", False) is True
    assert found.get("rate", 0.5) == 100_000.0
    assert found.get("from", False) == found.get("from") == "checkpoint-5"  # the default is no type that it could have
    assert found.get("other", 3) == 3
    assert params.as_written(found) == {
        "number": 1,
        "tags": ["a"],
        "fp16": False,
        "cache": True,
        "shard": "0010",
        "version": "1.10",
        "quiet": "yes",
        "rate": "1e5",
        "from": "checkpoint-5",
        "x": True,
    }


def test_types_of_a_file_stay(tmp_path):
    given = {
        "fp16": False,
        "flag": False,
        "layers": [1, 2],
        "sizes": [1, 2],
        "commit": "3e563",
        "number": 3.0,
        "learning-rate": 1,
        "nested": {"a": [1, {"b": None}]},
        "folder": "x",
        "none": None,
        "tag": "0010",
    }
    found = read(tmp_path, [], given)
    assert {name: found[name] for name in given} == {**given, "folder": Path("x"), "learning-rate": 1.0}
    assert found["learning-rate"] is found.learning_rate
    assert (type(found.number), type(found.learning_rate)) == (int, float)
    for wrong, message in (
        ({"number": 2.5}, "invalid int value"),
        ({"number": [1]}, "a value of the type int is expected"),
        ({"number": True}, "a value of the type int"),
        ({"flag": "maybe"}, "invalid bool value"),
        ({"flag": [1]}, "bool"),
        ({"fp16": "maybe"}, "neither true nor false"),
        ({"learning-rate": 1, "learning_rate": 2}, "gives 'learning_rate' twice"),
    ):
        with pytest.raises(JobError, match=message):
            read(tmp_path, [], wrong)
    (tmp_path / "in.yaml").write_text("lr: 1e-4\ncommit: '0010'\n")
    assert dict(params.read_file(tmp_path / "in.yaml")) == {"lr": 1e-4, "commit": "0010"}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-n3"], "number", 3),
        (["-n", "3"], "number", 3),
        (["--number=3"], "number", 3),
        (["--number", "3"], "number", 3),
        (["--learning-rate=3"], "learning_rate", 3.0),
        (["--learning_rate", "3"], "learning_rate", 3.0),
        (["--fp16"], "fp16", True),
        (["--fp16=false"], "fp16", False),
        (["--amp"], "amp", True),
        (["--no-amp"], "amp", False),
        (["--no_amp"], "amp", False),
        (["--amp=no"], "amp", False),
        (["--no-amp=true"], "amp", False),
        (["--no-cache"], "cache", False),
        (["--no_cache=false"], "cache", True),
        (["--flag=false"], "flag", False),
        (["--sizes", "3", "4"], "sizes", [3, 4]),
        (["--tags", "b"], "tags", ["a", "b"]),
        (["--commit=0010"], "commit", "0010"),
        (["--nested=[1]"], "nested", "[1]"),
        (["--other", "5"], "other", 5),
    ],
)
def test_the_command_line_goes_before_the_file_in_every_spelling(tmp_path, words, name, value):
    file = {
        "number": 7,
        "learning-rate": 7,
        "fp16": True,
        "amp": True,
        "cache": True,
        "flag": True,
        "sizes": [7],
        "tags": ["z"],
        "commit": "7",
        "nested": [7],
        "other": "7",
    }
    for given in (file, None):
        assert read(tmp_path, words, given)[name] == value


RATE = (("--lr", "--learning-rate"), {"type": float, "dest": "rate", "default": 1.0})
QUIET = (("--no-bars",), {"action": "store_false", "dest": "bars"})


@pytest.mark.parametrize(
    ("content", "words", "expected"),
    [({"lr": 3}, [], {"rate": 3.0, "bars": True}), ({"learning-rate": "3"}, [], {"rate": 3.0, "bars": True}),
     ({"rate": 3}, ["--lr=2"], {"rate": 2.0, "bars": True}), ({"lr": 3}, ["--lr=2", "--rate=5"],
     {"rate": 5.0, "bars": True}), ({"no_bars": True}, [], {"rate": 1.0, "bars": False}),
     ({"no-bars": False, "bars": True}, [], None), ({"lr": 3, "rate": 4}, [], None)],
)  # fmt: skip
def test_a_parameter_is_one_by_its_options_and_by_the_name_it_is_kept_as(tmp_path, content, words, expected):
    parser = params.Parser()
    for names, settings in (RATE, QUIET):
        parser.add_argument(*names, **settings)
    (tmp_path / "in.json").write_text(json.dumps(content))
    argv = [*words, "--input_file", str(tmp_path / "in.json")]
    if expected is None:
        with pytest.raises(JobError, match="twice: by its name and by that of its option"):
            params.read(parser, argv, None)
        return
    assert dict(params.read(parser, argv, None)) == expected
    (tmp_path / "queue.json").write_text(json.dumps(content))
    assert dict(params.read(parser, words, tmp_path / "queue.json")) == expected


def test_mistakes_of_a_switch(tmp_path):
    with pytest.raises(JobError, match="--fp16: 'perhaps' is neither true nor false"):
        read(tmp_path, ["--fp16=perhaps"])
    with pytest.raises(JobError, match="invalid bool value: 'perhaps'"):
        read(tmp_path, ["--flag=perhaps"])


def test_a_value_with_a_type_goes_through_the_queue_and_begins_again_with_it(home, tmp_path, monkeypatch):
    """A list, an empty value, a text and a switch; the script that is begun again reads them as the first one did."""
    changes = {"layers": [1, {"a": "ü"}], "none": None, "share": 0.1, "note": "two words"}
    store = Store()
    store.submit("old", name="a", experiment="e", command=[sys.executable, "s.py"], params={}, cwd=str(tmp_path))
    job = store.find(queue.again(store, store.find("old"), changes))
    assert job["params"] == changes
    trainer, seen = TrainerJob(), {}
    paths.make(paths.job_folder(job["id"]))
    (paths.job_folder(job["id"]) / paths.PARAMS).write_text(json.dumps(job["params"]))  # as a worker does
    monkeypatch.setenv(paths.JOB_ID, job["id"])
    monkeypatch.setattr(sys, "argv", job["command"][1:])
    trainer.job_wrapper()(lambda: seen.update(trainer.params))()
    assert {name: seen[name] for name in changes} == changes


def test_a_job_stays_in_its_own_folder_whatever_its_parameters_say(home, monkeypatch):
    trainer, seen = TrainerJob(), {}
    monkeypatch.setattr(sys, "argv", ["s.py", "--job_id=other", "--rate=2"])
    with tracked("s", job="mine"):  # as the queue runs it
        trainer.job_wrapper()(lambda: seen.update(trainer.params, id=trainer.job.id))()
    assert seen == {"output_dir": str(paths.job_folder("mine") / "output"), "rate": 2, "id": "mine"}
    assert not paths.job_folder("other").exists()


@pytest.mark.slow
def test_a_switch_of_a_script_of_its_own(home, tmp_path):
    (tmp_path / "a.py").write_text(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--fp16', action='store_true')\n"
        "p.add_argument('--amp', action=argparse.BooleanOptionalAction)\nprint(vars(p.parse_args()))\n"
    )
    assert main(["jobs", "submit", "a.py", "--param", "fp16", "--param", "no-amp"]) == 0
    store = Store()
    first = store.jobs()[0]
    second = queue.again(store, first, {"fp16": False})
    subprocess.run([sys.executable, "-m", "trainwright.cli.main", "jobs", "worker", "--once", "--slots=2"], check=True)
    logs = [(paths.job_folder(job) / paths.LOG).read_text() for job in (first["id"], second)]
    assert logs == ["{'fp16': True, 'amp': False}\n", "{'fp16': False, 'amp': False}\n"]


def test_names_and_logs_are_utf8_whatever_the_locale(home, tmp_path, capsys):
    from trainwright.jobs.tracking.tracking import tracked
    from trainwright.jobs.web import files

    with tracked("naïve", {"title": "精度"}, job="exp") as job:
        job.metric("Verlust-ß", 1.0, 1)
    text = "损失 0.5 🚀\n" * 8000
    folder = paths.job_folder("exp")
    (folder / paths.LOG).write_text(text, encoding="utf-8")
    got, place = "", 0
    while (part := files.log({"folder": str(folder)}, place))["end"] > place:
        got, place = got + part["text"], part["end"]
    assert got == text
    assert files.log({"folder": str(folder)})["text"] in text  # the end of it, from a whole character on
    whole = text.encode()
    (folder / paths.LOG).write_bytes(whole[:4])
    first = files.log({"folder": str(folder)}, 0)
    (folder / paths.LOG).write_bytes(whole[:6])
    assert first["text"] + files.log({"folder": str(folder)}, first["end"])["text"] == text[:2]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (folder / paths.LOG).write_text("损失\n", encoding="utf-8")
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "from trainwright.cli.main import main\n"
            "for words in (['list'], ['show', 'exp'], ['logs', 'exp'], ['export', 'exp', '-o', 'out.csv']):\n"
            "    assert main(['jobs', *words]) == 0",
        ],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "na\\xefve" in shown.stdout
    assert "Verlust-ß" in (tmp_path / "out.csv").read_text(encoding="utf-8")
