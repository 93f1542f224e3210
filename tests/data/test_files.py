"""Which files are read as which split: what `datasets` makes of the same folder."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import datasets
import pytest

from trainwright import DataError
from trainwright.config.schema import DatasetParams
from trainwright.data import mixture
from trainwright.jobs.tracking.datasets import load

NAMES = ("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation")
LAYOUTS = {
    **{f"{name}.jsonl": ("train.jsonl", f"{name}.jsonl") for name in NAMES},
    **{f"{name}/": ("train/a.jsonl", f"{name}/a.jsonl") for name in NAMES},
    "words": ("train2.jsonl", "my_val_set.jsonl", "a-test-1.jsonl"),
    "below": ("x/training/a.jsonl", "x/valid/a.jsonl", "x/test/a.jsonl"),
    "folders go before files": ("train/a.jsonl", "test/train-0.jsonl"),
    "a name within a word": ("train.jsonl", "latest/train/x.jsonl"),
    "shards": ("data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/held-00000-of-00001.jsonl"),
    "hidden": ("train.jsonl", "dev.jsonl", ".ipynb_checkpoints/train-checkpoint.jsonl", "__pycache__/train.jsonl",
               "._train.jsonl"),
    "compressed": ("train.jsonl", "train-2.jsonl.gz", "test.jsonl.bz2", "val.jsonl.xz"),
}  # fmt: skip
OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def write(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    with OPEN.get(path.suffix, open)(path, "wt") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_what_datasets_says(tmp_path, layout):
    for name in LAYOUTS[layout]:
        write(tmp_path / name, name)
    theirs = {str(name): sorted(rows["text"]) for name, rows in datasets.load_dataset(str(tmp_path)).items()}
    for name, expected in theirs.items():
        if layout == "a name within a word" and name == "train":  # theirs leaves out train.jsonl beside train/
            expected = sorted(LAYOUTS[layout])
        ours = mixture.read_one(DatasetParams(dataset_name=str(tmp_path), split=name), False)["text"]
        stream = mixture.read_one(DatasetParams(dataset_name=str(tmp_path), split=name), True)
        assert sorted(ours) == expected
        assert sorted(row["text"] for row in stream) == expected
        assert sorted(load(str(tmp_path), [name])[name]["text"]) == expected


def test_a_readme_of_the_hub_says_which_files_are_which(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.tsv.txt", name)
        (tmp_path / f"{name}.csv").write_text(f"text;n\n{name};0010\n")
    splits = "[{split: train, path: a.csv}, {split: test, path: b.csv}]"
    head = f"configs:\n- {{config_name: first, sep: ';', data_files: {splits}}}"
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# Rows\n")
    for split in ("train", "test"):
        expected = datasets.load_dataset(str(tmp_path), split=split)["text"]
        assert mixture.read_one(DatasetParams(dataset_name=str(tmp_path), split=split), False)["text"] == expected
    one = DatasetParams(dataset_name=str(tmp_path), subset="first", split="test")
    assert mixture.read_one(one, False)[:] == {"text": ["b"], "n": ["0010"]}  # text to the letter, as elsewhere
    assert load(str(tmp_path), ["test"])["test"]["text"] == ["b"]
    (tmp_path / "README.md").write_text("# Rows\n---\nnot: a head\n---\n")  # of people
    with pytest.raises(DataError, match="holds files of csv, text"):
        load(str(tmp_path), ["train"])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "C.JSONL", "c")  # datasets leaves it out
    assert sorted(mixture.read_one(DatasetParams(dataset_name=str(tmp_path)), False)["text"]) == ["a", "c"]
    (tmp_path / "b.jsonl").write_text('{"text": \n')
    with pytest.raises(DataError, match=r"'.*/b.jsonl' cannot be read: .*(JSON|Expected object)"):
        mixture.read_one(DatasetParams(dataset_name=str(tmp_path)), False)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "d"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"'.*/d.jsonl.gz' cannot be read: "):
        load(str(tmp_path), ["train"])


def test_commas_and_tabs_are_two_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("text\na\n")
    (tmp_path / "b.TSV").write_text("text\tn\nb\t1\n")
    with pytest.raises(DataError, match="holds files of csv, tsv; it must hold files of one kind"):
        load(str(tmp_path), ["train"])
    only = mixture.read_one(DatasetParams(dataset_name="tsv", dataset_path=str(tmp_path)), False)
    assert only[:] == {"text": ["b"], "n": ["1"]}


def test_files_of_other_columns_in_a_folder_and_lists_of_llama_factory_are_told(tmp_path):
    for name, row in (("a", {"text": "x"}), ("b", {"prompt": "x", "completion": "y"})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(
        DataError, match=r"b.jsonl' has the columns completion, prompt, and '.*a.jsonl' text. Name files"
    ):
        mixture.read_one(DatasetParams(dataset_name=str(tmp_path)), False)
    listed = {"mine": {"file_name": "a.jsonl", "columns": {"prompt": "ask", "response": "output"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(listed))
    said = (
        r"lists datasets as LLaMA-Factory's do: mine. Name .* {dataset_name: .*a.jsonl, column_map: {ask: instruction}}"
    )
    with pytest.raises(DataError, match=said):
        mixture.read_one(DatasetParams(dataset_name=str(tmp_path)), False)
