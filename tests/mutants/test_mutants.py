"""`make mutants` on a package of one function: what is changed, which tests meet it, and what they say."""

from __future__ import annotations

import json
import subprocess

import pytest

pytest.importorskip("mutmut", reason="the tools of `make mutants` are not installed (pip install -e '.[dev]')")

from tests.mutants.changes import mutants  # noqa: E402
from tests.mutants.trying import Copy, outcome, record  # noqa: E402

SUMS = '''
"""Sums."""


def up_to(end: int) -> int:
    """The sum of the numbers below `end`."""
    if end < 0:
        raise ValueError("end is " + str(end - 1 + 1))
    total, number = 0, 0
    while number != end:
        total += number
        number += 1
    return total


def never() -> int:
    return 1
'''
TESTS = """
import subprocess
import sys

import pytest

from trainwright.sums import up_to


def test_a_sum():
    assert up_to(4) == 6


def test_that_fails():
    raise AssertionError(up_to(1))


def test_another_process():
    subprocess.run([sys.executable, "-c", "from trainwright.sums import up_to; assert not up_to(1)"], check=True)


def test_of_nothing():
    pass


@pytest.mark.slow
def test_slow():
    up_to(2)
"""


def test_mutants_are_of_functions_not_of_words_and_known_by_content():
    found = mutants("sums.py", SUMS)
    texts = {one.applied(SUMS) for one in found}
    assert SUMS.replace("end < 0", "end <= 0") in texts
    assert SUMS.replace("total += number", "total -= number") in texts
    assert SUMS.replace("return 1", "return 2") in texts
    assert not any(
        one.line == SUMS.splitlines().index('        raise ValueError("end is " + str(end - 1 + 1))') + 1
        for one in found
    )
    assert len({one.key for one in found}) == len(found)
    moved = mutants(
        "other/place.py", "import os\n\n" + SUMS.replace("def never", "def first():\n    pass\n\n\ndef never")
    )
    assert [one.key for one in moved] == [one.key for one in found]
    changed = {one.key for one in mutants("sums.py", SUMS.replace("total, number = 0, 0", "number, total = 0, 0"))}
    assert changed & {one.key for one in found} == {one.key for one in found if one.function == "never"}


@pytest.fixture
def copy(tmp_path):
    """A copy of a package with one module and one file of tests."""
    for name, text in {
        "src/trainwright/__init__.py": "",
        "src/trainwright/sums.py": SUMS,
        "tests/test_sums.py": TESTS,
    }.items():
        (tmp_path / "original" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "original" / name).write_text(text)
    (tmp_path / "original" / "pytest.ini").write_text("[pytest]\nmarkers = slow: more than a moment\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "original", check=True)
    copy = Copy(tmp_path / "copy")
    copy.renew(tmp_path / "original")
    return copy


@pytest.mark.slow  # runs pytest
def test_of_each_test_that_passes_the_functions_it_runs_are_recorded(copy, tmp_path):
    assert record(copy, "tests/test_sums.py", "not slow", tmp_path / "map.json", 60) == 1
    found = {test: one["functions"] for test, one in json.loads((tmp_path / "map.json").read_text()).items()}
    name = "tests/test_sums.py::test_"
    assert found == {
        f"{name}a_sum": ["sums.py:up_to"],
        f"{name}another_process": ["sums.py:up_to"],
        f"{name}of_nothing": [],
    }


@pytest.mark.slow  # runs pytest
def test_a_mutant_is_caught_by_the_first_test_that_fails_or_by_time_and_the_copy_is_as_it_was(copy, tmp_path):
    tests = [f"tests/test_sums.py::test_{name}" for name in ("of_nothing", "a_sum", "another_process")]

    def tried(old, new, tests=tests, limit=60.0):
        return outcome(copy, "sums.py", SUMS.replace(old, new), tests, limit, tmp_path / "log")

    assert tried("total += number", "total -= number") == tests[1]
    assert tried("return total", "return total or 1", tests[::2]) == tests[2]
    assert tried("return 1", "return 2") is None
    assert tried("number += 1", "number -= 1", limit=3.0) == "time"
    assert tried("if end < 0:", "if end < 0 or:") == "tests/test_sums.py"
    assert (copy.package / "sums.py").read_text() == SUMS
