"""Tool calls in a table: Arrow gives each the keys of all others, and none of these is taken for an argument."""

from __future__ import annotations

import json

import datasets
import pytest

from trainwright.data.sources.filled import without_filled

CALLS = [
    {"name": "add", "arguments": {"a": 1, "b": 2}},
    {"name": "look", "arguments": {"place": "here", "within": {"deep": True}}},
    {"name": "stop", "arguments": {}},
]
ROWS = [{"text": str(number), "calls": [call]} for number, call in enumerate(CALLS)]


def test_a_table_has_the_keys_of_all_calls_and_gives_each_its_own_back():
    table = datasets.Dataset.from_list(ROWS[:2])
    assert set(table[0]["calls"][0]["arguments"]) == {"a", "b", "place", "within"}  # what is to be mended
    found = without_filled(table)
    assert [row["calls"] for row in found] == [row["calls"] for row in ROWS[:2]]
    assert [row["text"] for row in found] == ["0", "1"]


def test_a_stream_of_a_table_likewise():
    found = without_filled(datasets.Dataset.from_list(ROWS[:2]).to_iterable_dataset())
    assert [row["calls"] for row in found] == [row["calls"] for row in ROWS[:2]]


def test_schemas_of_tools_likewise_and_nulls_elsewhere_stay():
    rows = [{"tools": [{"name": name, "note": None, "parameters": {"properties": {name: {"type": "string"}}}}]}
            for name in ("first", "second")]  # fmt: skip
    rows[1]["tools"][0]["note"] = "x"
    assert [row["tools"] for row in without_filled(datasets.Dataset.from_list(rows))] == [row["tools"] for row in rows]


def test_rows_of_json_keep_what_was_written_as_null(tmp_path):
    rows = [{"call": {"arguments": {"a": 1, "b": None}}}, {"call": {"arguments": {"a": None, "b": 2}}}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = datasets.load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train")
    assert without_filled(table) is table
    found = without_filled(datasets.Dataset.from_list(rows))
    assert [row["call"] for row in found] == [{"arguments": {"a": 1}}, {"arguments": {"b": 2}}]


@pytest.mark.parametrize("of", [
    lambda: datasets.Dataset.from_list([{"text": "a", "number": None}]),
    lambda: datasets.IterableDataset.from_generator(lambda: iter(ROWS)),
], ids=["without calls", "a stream that does not know its columns"])  # fmt: skip
def test_other_rows_are_handed_on_as_they_are(of):
    rows = of()
    assert without_filled(rows) is rows
