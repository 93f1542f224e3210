"""Tokens are kept in parts: what a process has finished when it is killed is used by the next; nothing else stays."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
import traceback
from dataclasses import replace
from operator import itemgetter

import datasets
import pytest

from tests import tiny_language as tiny
from trainwright import DataError
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.sources.formats import Format
from trainwright.data.text import parts
from trainwright.data.text.prepare import prepare
from trainwright.data.text.tokenize import PairRules, TextRules

ROWS = 1200
TABLE = datasets.Dataset.from_list(tiny.rows_of("text", ROWS))
RULES = TextRules(tiny.new_tokenizer(), Format.TEXT)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of its own, with parts of 64 rows."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(parts, "rows_of_a_part", lambda table: 64)
    return tmp_path / "cache" / "trainwright"


@pytest.fixture
def tokenised(monkeypatch):
    """The numbers of the rows that this process tokenised; with `at` something is done when a row's turn comes."""

    class Numbers(list):
        def __init__(self):
            self.at = {}

    found, rows_of = Numbers(), TextRules.rows

    def rows(self, given, numbers):
        for number in set(numbers) & set(found.at):
            found.at[number]()
        found.extend(numbers)
        return rows_of(self, given, numbers)

    monkeypatch.setattr(TextRules, "rows", rows)
    return found


def made(processes=None, rules=RULES, table=TABLE):
    rows = prepare({"a": (table, rules)}, itemgetter(0), processes, "data").rows
    return [rows[number]["input_ids"].tolist() for number in range(len(rows))]


@pytest.fixture(scope="module")
def expected():
    """What the rules make of every row alone."""
    return [RULES.row(row, number)["input_ids"] for number, row in enumerate(TABLE)]


def child(work):
    """Begin a process that does something; it ends without the test's own clearing up."""
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def left_of(place):
    return sorted(path.name for path in place.rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 700, ROWS - 1])
def test_what_is_finished_when_a_process_is_killed_is_used(place, tokenised, expected, at):
    tokenised.at[at] = lambda: kill(os.getpid())
    assert ended(child(made)) == -signal.SIGKILL
    assert any(name.endswith(".unfinished") for name in left_of(place))
    tokenised.at.clear()
    assert made() == expected
    assert tokenised == list(range(at // 64 * 64, ROWS))
    assert all(name.endswith(".arrow") for name in left_of(place))
    tokenised.clear()
    assert made() == expected
    assert not tokenised


@pytest.mark.slow
def test_processes_make_the_same_tokens_and_end_with_the_one_that_began_them(place, tokenised, expected):
    began = os.getpid()
    assert made(processes=3) == expected
    assert not tokenised  # not here
    for path in place.rglob("*.arrow"):
        path.unlink()
    tokenised.at[700] = lambda: os.getpid() != began and kill(os.getppid())
    assert ended(child(lambda: made(processes=3))) == -signal.SIGKILL
    assert made() == expected  # the lock is free
    assert len(tokenised) < ROWS  # none, where the others were about to end
    for _ in range(200):  # those whose parent died end with the batch that they were in
        if all(name.endswith(".arrow") for name in left_of(place)):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"{left_of(place)} is left")


def test_a_process_that_dies_is_told_and_what_is_finished_is_kept(tokenised, expected):
    began = os.getpid()
    tokenised.at[900] = lambda: os.getpid() != began and kill(os.getpid())
    with pytest.raises(DataError, match="A process that tokenises ended by signal 9, .* smaller dataset_num_proc"):
        made(processes=2)
    assert made() == expected
    assert 900 in tokenised
    assert len(tokenised) < ROWS


def test_a_mistake_in_a_row_is_told_from_processes_too(place):
    table = datasets.Dataset.from_list([*TABLE.to_list(), {"text": None}])
    for processes in (None, 2):
        with pytest.raises(DataError, match=f"Row {ROWS} has None in 'text'. Drop the row"):
            made(processes, table=table)
    assert all(name.endswith(".arrow") for name in left_of(place))


@pytest.mark.slow
def test_of_two_processes_that_begin_together_one_makes_a_part(place, tmp_path, tokenised, expected):
    def work():
        assert made() == expected
        (tmp_path / f"{os.getpid()}.count").write_text(str(len(tokenised)))

    pids = [child(work) for _ in range(2)]
    assert [ended(pid) for pid in pids] == [0, 0]
    assert sum(int((tmp_path / f"{pid}.count").read_text()) for pid in pids) == ROWS


@pytest.mark.parametrize("processes", [None, 2])
def test_a_full_disk_is_told_and_what_is_finished_is_kept(place, tokenised, expected, processes):
    """Files may be no larger than one, as a disk may: a longer part cannot be written."""
    long = datasets.Dataset.from_list([*TABLE.to_list()[:1000], *({"text": "the cat " * 3000},) * 3])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            DataError, match=r"The tokens of the data cannot be written to '.*': File too large. Make ro"
        ):
            made(processes, table=long)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert all(name.endswith(".arrow") for name in left_of(place))
    tokenised.clear()
    assert made(table=long)[:1000] == expected[:1000]
    assert tokenised[-43:] == list(range(960, 1003))
    others = len(tokenised) - 43  # of the other process, which was ended where it was
    assert (processes and others % 64 == 0) or others == 0


def test_of_a_damaged_cache_the_damaged_part_alone_is_made_anew(place, tokenised, expected):
    made()
    damaged = next(place.rglob("128-192.arrow"))
    whole = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(whole[: len(whole) // 2])
    tokenised.clear()
    assert made() == expected
    assert tokenised == list(range(128, 192))


@pytest.mark.parametrize("where", [-200, -1, 700])
def test_a_part_in_which_one_bit_has_changed_is_named_and_made_anew(place, tokenised, expected, where):
    """In the last tokens, in the sum of them all, and somewhere in the middle."""
    made()
    path = next(place.rglob("64-128.arrow"))
    damaged = bytearray(path.read_bytes())
    whole = bytes(damaged)
    damaged[where] ^= 1
    path.unlink()  # a mapping of this process's may be open
    path.write_bytes(damaged)
    tokenised.clear()
    prepared = prepare({"a": (TABLE, RULES)}, itemgetter(0), None, "training data")
    assert tokenised == list(range(64, 128))
    (said,) = prepared.report(None, "training data")
    assert said == (
        f"Of the tokens of the training data kept in '{path.parent}' 64-128.arrow is not as written, and made anew."
    )
    assert path.read_bytes() == whole
    assert made() == expected


def test_what_died_under_another_key_is_swept_and_what_is_alive_is_not(place, tokenised):
    tokenised.at[700] = lambda: kill(os.getpid())
    assert ended(child(made)) == -signal.SIGKILL
    (dead,) = place.rglob("*.unfinished")
    tokenised.at.clear()
    from filelock import FileLock

    other = replace(RULES, text_column="other"), datasets.Dataset.from_list([{"other": "a"}])
    with FileLock(f"{dead.parent}.lock"):  # as of one that is at work there
        made(None, *other)
        assert dead.exists()
    made(None, *other)
    assert not dead.exists()
    assert next(place.rglob("0-64.arrow")).parent == dead.parent  # what it finished stays


def test_runs_of_another_length_and_packed_ones_share_the_tokens(tokenised, expected):
    assert made() == expected
    tokenised.clear()
    for most in (3, 20, None):
        rules = replace(RULES, max_length=most)
        rows = prepare({"a": (TABLE, rules)}, itemgetter(0), None, "data").rows
        assert [rows[i]["labels"].tolist() for i in range(len(rows))] == [row[:most] for row in expected]
        assert rows.lengths.tolist() == [len(row[:most]) for row in expected]
    packed = PackedRows(rows, "wrapped", 64)
    assert [token for i in range(len(packed)) for token in packed[i]["input_ids"].tolist()] == sum(expected, [])
    assert not tokenised


KINDS = {
    "text": Format.TEXT, "completion": Format.COMPLETION, "chat": Format.MESSAGES, "preference": Format.PREFERENCE,
    "chat_preference": Format.PREFERENCE,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_called_for_many_rows_at_once(monkeypatch, kind):
    """Whose own threads share them; the tokens are those of a call for every text."""
    tokenizer, calls = tiny.new_tokenizer(), []
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|end|>' }}{% endfor %}"
    made_of = PairRules if KINDS[kind] is Format.PREFERENCE else TextRules
    rules = made_of(tokenizer, KINDS[kind], assistant_only=kind == "chat")
    rows = tiny.rows_of(kind, 100)
    rules.marks  # noqa: B018  asked for once
    call = type(tokenizer).__call__
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *given, **named: calls.append(1) or call(*given, **named))
    together = rules.rows(rows, range(100))
    assert len(calls) <= 3
    assert together == [rules.row(row, number) for number, row in enumerate(rows)]


def test_a_row_that_a_tokenizer_refuses_is_named_among_others():
    rows = [
        *tiny.rows_of("completion", 3),
        {"prompt": "a \ud800", "completion": "b"},
        {"prompt": ["a"], "completion": ""},
    ]
    rules = TextRules(tiny.new_tokenizer(), Format.COMPLETION)
    with pytest.raises(DataError, match=re.escape("Row 3 is not prompt and completion: ")):
        rules.rows(rows[:4], range(4))
    with pytest.raises(
        DataError, match=re.escape("Row 3 is not prompt and completion: TypeError \"['a']\" is no text")
    ):
        rules.rows([*rows[:3], rows[4]], range(4))


def test_a_table_with_a_transform_is_read_through_it(tmp_path, monkeypatch):
    """As `datasets.map` reads it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    table = datasets.Dataset.from_dict({"text": ["def f", "def g"]})
    upper = table.with_transform(lambda batch: {"text": [text.upper() for text in batch["text"]]})
    rules = TextRules(tiny.new_tokenizer(), Format.TEXT)
    for given, wanted in ((upper, ["DEF F", "DEF G"]), (table.with_format("numpy"), ["def f", "def g"])):
        rows = prepare({"rows": (given, rules)}, lambda parts: parts[0], None, "training data").rows
        assert [rows[i]["input_ids"].tolist() for i in range(2)] == [
            rules.row({"text": t}, 0)["input_ids"] for t in wanted
        ]


def test_a_token_of_more_than_32_bits_is_told_with_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    table = datasets.Dataset.from_dict({"input_ids": [[5, 6], [7, 2**40]]})
    with pytest.raises(DataError, match=r"Row 1 .*1099511627776 is no token"):
        prepare({"rows": (table, TextRules(tiny.new_tokenizer(), Format.TOKENS))}, lambda parts: parts[0], None, "data")


def test_no_parts_are_a_dataset_without_rows():
    features = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int64"))})
    made = parts.joined([], features, "known")
    assert (len(made), made.features, made._fingerprint) == (0, features, "known")
