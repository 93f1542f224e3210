"""Which failures a launched run begins anew after, by what the processes said of them."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from tests.launching.test_runs import LAUNCH, environment
from trainwright import errors
from trainwright.launching import verdict
from trainwright.launching.judge import Judge


class Odd(Exception):
    """Of a library."""


def raised(error, step=None):
    try:
        raise error
    except BaseException as caught:
        if step is not None:
            errors.note_step(caught, step)
        return verdict.of(caught, __file__)


@pytest.mark.parametrize("error", [
    errors.ConfigError("lr=-1"), errors.DataError("row 3"), errors.DivergenceError("nan"),
    errors.UnsavableError("a lock"), ImportError("no module"), ModuleNotFoundError("no module"),
    NameError("x"), SyntaxError("x"),
])  # fmt: skip
def test_what_must_be_changed_first_ends_the_run(error):
    judge = Judge()
    assert not judge.begins_anew({1: raised(errors.RankError("rank 0")), 0: raised(error)})
    assert str(error) in judge.reason
    assert "Rank 0 ended so at " in judge.reason
    assert ("Traceback" in judge.reason) == (not isinstance(error, errors.TrainwrightError))


@pytest.mark.parametrize("error", [
    RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2238"),
    errors.RankError("rank 1 is gone"), errors.SaveError("disk"), errors.JobError("database"),
    ConnectionResetError("peer"), TimeoutError("late"),
])  # fmt: skip
def test_what_comes_from_outside_is_begun_anew_each_time(error):
    judge = Judge()
    assert all(judge.begins_anew({0: raised(error, step=5)}) for _ in range(5))
    assert judge.history() == ", after 4 new beginnings, each time after step 5"


def test_a_killed_process_leaves_no_word_and_is_begun_anew():
    judge = Judge()
    assert all(judge.begins_anew({}) for _ in range(5))
    assert judge.history() == ", after 4 new beginnings"


def test_the_same_failure_after_the_same_step_is_begun_anew_once():
    fails = [(Odd("in process 17"), 5), (Odd("in process 18"), 6), (ValueError("in process 18"), 6),
             (Odd("elsewhere"), 6), (Odd("in process 19"), 6)]  # fmt: skip
    judge = Judge()
    assert all(judge.begins_anew({1: raised(*one)}) for one in fails)
    assert not judge.begins_anew({0: raised(errors.RankError("rank 1"), 6), 1: raised(Odd("in process 2"), 6)})
    assert judge.reason == (
        "Odd: in process 2\nRank 1 ended so twice after step 6, and would again: the run is not begun anew."
    )
    judge = Judge()
    assert judge.begins_anew({0: raised(Odd("once"))})
    assert judge.begins_anew({})  # another one came between
    assert judge.begins_anew({0: raised(Odd("once"))})


def test_without_steps_the_start_alone_fails_of_the_same(monkeypatch):
    """A script with a loop of its own may have come far between two failures of the same words."""
    for seconds, again in ((50, False), (70, True)):
        monkeypatch.setattr(verdict, "_BEGAN", time.monotonic() - seconds)
        judge = Judge()
        assert judge.begins_anew({0: raised(Odd("ECC error"))})
        assert judge.begins_anew({0: raised(Odd("ECC error"))}) == again


def test_the_word_is_in_torchruns_form(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    word = raised(ImportError("no module"))
    assert not verdict.leave(word)  # nobody listens
    assert not path.exists()
    monkeypatch.setattr(verdict, "listened", True)
    assert verdict.leave(word)
    failure = ProcessFailure(0, 17, 1, str(path))
    assert verdict.read(failure.error_file_data) == word
    assert failure.message == json.loads(path.read_text())["message"]
    assert verdict.read({"message": "<NONE>"}) is None
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "none" / "error.json"))
    assert not verdict.leave(word)  # so the process says it itself


SCRIPT = """
import argparse, sys
print("begun", flush=True)
if sys.argv[1] == "import":
    import nothing_of_this_name
if sys.argv[1] == "ours":
    from trainwright.errors import ConfigError
    raise ConfigError("lr=-1: it must be positive.")
if sys.argv[1] == "raises":
    raise ValueError("what the user wrote")
argparse.ArgumentParser().parse_args()
"""
SAID = {
    "import": "No module named 'nothing_of_this_name'\nRank [01] ended so at script.py:5, and",
    "ours": "lr=-1: it must be positive.\nRank [01] ended so at script.py:8, and",
    "words": "script.py: error: unrecognized arguments: words\nRank [01] ended so, and",
    "raises": "ValueError: what the user wrote\nRank [01] ended so twice, and",
}


@pytest.mark.ranks
@pytest.mark.slow
def test_a_mistake_in_a_script_is_said_once_and_not_begun_anew(tmp_path):
    begun = {}
    for what in SAID:
        place = tmp_path / what
        place.mkdir()
        (place / "script.py").write_text(SCRIPT)
        begun[what] = subprocess.Popen(
            [*LAUNCH[:-1], "script.py", "--processes", "2", what], cwd=place, env=environment(tmp_path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    for what, process in begun.items():
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 2, said
        tries = {path.name for path in (tmp_path / what / "logs" / "script").glob("*/attempt_*")}
        assert tries == ({"attempt_0", "attempt_1"} if what == "raises" else {"attempt_0"}), said
        assert len(re.findall(SAID[what] + " would again: the run is not begun anew", said)) == 1, said
        own_lines = [line for line in said.splitlines() if not line.startswith("[rank ")]
        assert "\n".join(own_lines).count(SAID[what].partition("\n")[0]) == 1, said
        assert what == "raises" or said.count(SAID[what].partition("\n")[0]) == 1, said
