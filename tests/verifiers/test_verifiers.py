"""What is right, and what is not."""

from __future__ import annotations

import json

import pytest

from trainwright.errors import ConfigError
from trainwright.rewards.functions import VERIFIERS, function_at, of_names
from trainwright.tasks.algebra.problems import TASKS
from trainwright.verifiers import code
from trainwright.verifiers.algebra import algebra
from trainwright.verifiers.structure import json_schema
from trainwright.verifiers.text import exact_match, matches, numeric


@pytest.mark.slow
def test_every_name_is_a_reward(apart):
    assert len(of_names(list(VERIFIERS), {})) == len(VERIFIERS)
    assert all(function_at(where) for where in VERIFIERS.values())


@pytest.mark.parametrize(
    ("completion", "settings", "right"),
    [
        (" 7 ", {}, 1.0), ("8", {}, 0.0), ("", {}, 0.0),
        ("so <a>6</a> or <a> 7</a>.", {"pattern": "<a>(.*?)</a>"}, 1.0),
        ("7", {"pattern": "<a>(.*?)</a>"}, 0.0),
    ],
)  # fmt: skip
def test_exact_match(completion, settings, right):
    assert exact_match(completion, "7", **settings) == right


def test_exact_match_without_capitals():
    assert (exact_match("YES", "yes"), exact_match("YES", "yes", ignore_case=True)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("completion", "answer", "settings", "right"),
    [
        ("It is 1,234.5 in all", "1234.5", {}, 1.0), ("3/4", 0.75, {}, 1.0), ("-2e3", "-2000", {}, 1.0),
        ("5 then 6", "5", {}, 0.0), ("none", "5", {}, 0.0), ("1/0", "5", {}, 0.0), (".5", "1/2", {}, 1.0),
        ("3.15", "3.14", {"tolerance": 0.02}, 1.0), ("3.15", "3.14", {"tolerance": 0.001}, 0.0),
        ("99", "100", {"relative": 0.02}, 1.0), ("9" * 500, "1", {}, 0.0), ("1e999", "1", {}, 0.0),
    ],
)  # fmt: skip
def test_numeric(completion, answer, settings, right):
    assert numeric(completion, answer, **settings) == right


def test_matches():
    form = r"<think>.*</think>\s*\S+"
    assert matches("<think>a\nb</think> 7", form) == 1.0
    assert matches("<think>a\nb</think> 7 and more", form) == 0.0
    assert matches("<think>a\nb</think> 7 and more", form, whole=False) == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_algebra_takes_the_reference_of_every_task_and_no_nonsense(task):
    import random

    _, answer = TASKS[task].make(random.Random(3))
    assert algebra(answer, answer, task) == 1.0
    assert algebra(f"Answer: [{answer}]", answer, task, pattern=r"\[(.*)\]") == 1.0
    assert algebra("no answer at all", answer, task) == 0.0


def test_algebra_takes_other_forms_of_the_same():
    assert algebra("1 + 2*x", "2*x + 1", "polynomial_sum") == 1.0


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": "^[a-z]+$"},
        "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 1]}, "maxItems": 2},
    },
}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "bob"}', 1.0), ('{"name": "bob", "age": 7, "tags": ["a", 1]}', 1.0),
        ('{"name": "bob", "age": null}', 1.0),
        ('{"name": "b"}', 0.0), ('{"name": "Bob"}', 0.0), ('{"age": 3}', 0.0), ('{"name": "bob", "age": -1}', 0.0),
        ('{"name": "bob", "age": true}', 0.0), ('{"name": "bob", "age": 7.0}', 1.0), ('{"name": "bob", "x": 1}', 0.0),
        ('{"name": "bob", "tags": ["c"]}', 0.0), ('{"name": "bob", "tags": ["a", "a", "a"]}', 0.0), ("[]", 0.0),
        ('{"name": "bob", "tags": [true]}', 0.0), ("{name: bob}", 0.0), ("", 0.0),
    ],
)  # fmt: skip
def test_json_schema(text, right):
    assert json_schema(text, SCHEMA) == right
    assert json_schema(f"<json>{text}</json>", json.dumps(SCHEMA), pattern="<json>(.*)</json>") == right


def test_a_keyword_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="'minimun'.*'minimum'"):
        json_schema("3", {"minimun": 3})


ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def apart():
    try:
        code.check_system()
    except ConfigError:
        pytest.skip("this system cannot run code apart")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (ADD, 1.0), (f"Here it is:\n```python\n{ADD}```\nDone.", 1.0),
        (f"import json\nprint(json.dumps(1))\n{ADD}", 1.0),
        ("def add(a, b): return a - b", 0.0), ("def add(a, b) return", 0.0), (f"{ADD}import os; os._exit(0)", 0.0),
        (f"{ADD}raise SystemExit(0)", 0.0), (f"{ADD}while True: pass", 0.0), (f"{ADD}x = 'a' * 10**9", 0.0),
        (f"{ADD}open('/etc/passwd').read()", 0.0), (f"{ADD}open('/tmp/written', 'w')", 0.0),
        (f"{ADD}import os; os.listdir('/')", 0.0), (f"{ADD}import subprocess; subprocess.run(['true'])", 0.0),
        (f"{ADD}import socket; socket.create_connection(('127.0.0.1', 80), 1)", 0.0),
        (f"{ADD}import socket; s = socket.socket(); s.bind(('127.0.0.1', 0))", 1.0),  # of a network that is its own
    ],
)  # fmt: skip
def test_code_passes_its_tests_and_has_no_files_and_no_network(apart, completion, right):
    assert code.python_tests(completion, "assert add(1, 2) == 3", seconds=1.0) == right


def test_code_is_refused_where_it_cannot_be_run_apart(monkeypatch):
    monkeypatch.setattr(code, "_passes", lambda *given: False)
    code.check_system.cache_clear()
    with pytest.raises(ConfigError, match="python_tests is refused"):
        of_names(["python_tests"], {})
    code.check_system.cache_clear()
