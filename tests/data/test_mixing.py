"""Several datasets in one run: each is what it is alone, and as many rows of it as are asked for."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import datasets
import pytest

from tests import tiny_language as tiny
from trainwright import DataError
from trainwright.config.reading.read import load_checked
from trainwright.config.schema import DatasetParams, DatasetSplitParams
from trainwright.data import mixture
from trainwright.tasks.language.text import load_text

TALK = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on"}]
ROWS = {
    "text": [{"text": f"the cat {n}", "more": n} for n in range(3)],
    "completion": [{"prompt": f"dog {n} ", "completion": f"ran {n}"} for n in range(4)],
    "messages": [{"messages": TALK, "id": n} for n in range(2)],
    "tools": [{"messages": TALK, "tools": [{"name": "search"}]}],
    "tokens": [{"input_ids": [5, 6, 7, n]} for n in range(3)],
    "labels": [{"input_ids": [5, 6, 7, n], "labels": [-100, -100, 7, n]} for n in range(3)],
    "mask": [{"input_ids": [5, 6, 7, n], "completion_mask": [0, 1, 1, 1]} for n in range(3)],
    "preference": [{"prompt": "a ", "chosen": "b", "rejected": "c"}],
}
TEMPLATE = "{% if tools %}tools: {{ tools[0].name }}\n{% endif %}" + (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tiny.make_place(tmp_path_factory.mktemp("mixing"))
    (place / "rows").mkdir()
    for name, rows in ROWS.items():
        tiny.write_rows(place / "rows" / f"{name}.jsonl", rows)
    return place


def load(place, tmp_path, names, stream=False, settings=None, **data):
    content = tiny.settings(place, "text")
    content["model"]["chat_template"] = TEMPLATE
    listed = [{"dataset_name": str(place / "rows" / f"{name}.jsonl"), **(settings or {})} for name in names]
    content["data"]["train"] = {"datasets": listed, "stream": stream, **data}
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    rows = list(text.train) if stream else [text.train[number] for number in range(len(text.train))]
    return [(row["input_ids"].tolist(), row["labels"].tolist()) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize(
    "names",
    [("labels", "tokens"), ("tokens", "labels"), ("mask", "tokens"), ("messages", "tools"), ("tools", "messages"),
     ("text", "completion", "messages"), ("completion", "labels", "text")],
    ids="+".join,
)  # fmt: skip
def test_datasets_of_unlike_columns_are_what_they_are_alone(place, tmp_path, names, stream):
    alone = [load(place, tmp_path, [name]) for name in names]
    assert load(place, tmp_path, names, stream) == sum(alone, [])


@pytest.mark.slow
def test_a_mixture_draws_as_datasets_does(place, tmp_path):
    names, shares = ("text", "completion", "labels"), (0.5, 0.2, 0.3)
    alone = [load(place, tmp_path, [name]) for name in names]
    tables = [datasets.Dataset.from_dict({"row": [str(row) for row in rows]}) for rows in alone]
    for strategy in ("first_exhausted", "all_exhausted"):
        theirs = datasets.interleave_datasets(tables, probabilities=shares, seed=7, stopping_strategy=strategy)["row"]
        content = [{"dataset_name": str(place / "rows" / f"{name}.jsonl"), "mixture_proportion": share}
                   for name, share in zip(names, shares, strict=True)]  # fmt: skip
        for stream in (False, True):
            mixed = load(place, tmp_path, [], stream, datasets=content, seed=7, mixture_strategy=strategy)
            if not stream:
                assert [str(row) for row in mixed] == list(theirs)
            assert set(map(str, mixed)) <= {str(row) for rows in alone for row in rows}


def test_mixtures_that_cannot_be(place, tmp_path):
    said = r"cannot learn from all of the data at once: '.*text.jsonl' holds text; '.*preference.jsonl' holds pref"
    with pytest.raises(DataError, match=said):
        load(place, tmp_path, ["text", "preference"])
    tiny.write_rows(place / "rows" / "bad.jsonl", [{"input_ids": [1, 2], "labels": [1]}])
    with pytest.raises(DataError, match=r"2: .*bad.jsonl': Row 0: 2 input_ids but 1 labels"):
        load(place, tmp_path, ["text", "bad"])
    split = DatasetSplitParams([DatasetParams(str(place / "rows" / f"{name}.jsonl")) for name in ("tokens", "labels")])
    with pytest.raises(DataError, match=r"for a trainer of another library, for their columns differ: '.*tokens.jsonl"):
        mixture.read(split, 0)
    split = DatasetSplitParams([DatasetParams(str(place / "rows" / f"{name}.jsonl")) for name in ("text", "text")])
    assert len(mixture.read(split, 0)) == 6


@pytest.mark.slow
def test_the_seed_of_a_streamed_dataset_shuffles_it(place, tmp_path):
    """Each seed has an order of its own, of the rows that there are."""
    found = [
        load(
            place,
            tmp_path,
            ["text"],
            True,
            {"shuffle": True, "seed": seed, "shuffle_buffer_size": 9, "sample_count": 9},
        )
        for seed in (1, 2, 1)
    ]
    assert found[0] == found[2] != found[1]
    assert sorted(found[0]) == sorted(found[1]) == sorted(load(place, tmp_path, ["text"], True, {"sample_count": 9}))


@pytest.mark.parametrize("stream", [False, True], ids=["table", "stream"])
def test_more_rows_than_there_are_come_again(place, stream):
    def rows(count, **more):
        one = DatasetParams(str(place / "rows" / "completion.jsonl"), sample_count=count, **more)
        return [row["completion"] for row in mixture.read(DatasetSplitParams([one], stream=stream), 3)]

    assert rows(3) == ["ran 0", "ran 1", "ran 2"]
    assert rows(10) == [f"ran {n % 4}" for n in range(10)]  # Oumi's
    if not stream:
        shuffled = rows(39, shuffle=True)
        assert shuffled == rows(39, shuffle=True)
        rounds = [tuple(shuffled[start : start + 4]) for start in range(0, 36, 4)]
        assert {tuple(sorted(one)) for one in rounds} == {("ran 0", "ran 1", "ran 2", "ran 3")}
        assert len(set(rounds)) > 3
        assert list(rounds[0]) == rows(4, shuffle=True)
        assert sorted(Counter(shuffled).values()) == [9, 10, 10, 10]


def test_a_stream_that_repeats_goes_on_from_any_row(place, tmp_path):
    content = tiny.settings(place, "text")
    listed = [{"dataset_name": str(place / "rows" / f"{name}.jsonl"), "sample_count": 9, "shuffle": True,
               "shuffle_buffer_size": 4} for name in ("completion", "labels")]  # fmt: skip
    content["data"]["train"] = {"datasets": listed, "stream": True}

    def stream():
        return load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config).train

    whole = [row["labels"].tolist() for row in stream()]
    assert len(whole) == 18
    for stop in (1, 5, 11):
        first = stream()
        begun = [row["labels"].tolist() for row in islice(iter(first), stop)]
        again = stream()
        again.load_state_dict(first.state_dict())
        assert begun + [row["labels"].tolist() for row in again] == whole
