"""What is kept is found again for the same inputs, and for no others: against what is computed afresh."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from operator import itemgetter

import datasets
import pytest
import torch

from tests import tiny_language as tiny
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.data.sources import files
from trainwright.data.sources.formats import Format
from trainwright.data.text.prepare import fingerprint, prepare
from trainwright.data.text.tokenize import TextRules


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("caches"))


def reference(place, tmp_path, folder, kwargs=None, model=None, **training):
    """The reference's log-probabilities of a run in a folder."""
    kwargs = {"precompute_ref_log_probs": True, **(kwargs or {})}
    content = tiny.settings(place, "chat_preference", trainer_kwargs=kwargs, **training)
    content["training"]["output_dir"] = str(tmp_path / folder)
    content["model"] |= {"chat_template": "chatml", **(model or {})}
    return build_trainer(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config).train_dataset.log_probs


CHANGES = {
    "weights past the shorter answer": {"kwargs": {"ld_alpha": 0.3}},
    "where rows are cut": {"kwargs": {"max_length": 60}},
    "the template": {"model": {"chat_template": "plain"}},
    "the format of the weights": {"model": {"torch_dtype_str": "bfloat16"}},
    "the format of what is computed": {"bf16": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_numbers_of_a_reference_are_of_what_they_were_computed_from(place, tmp_path, name):
    change = CHANGES[name]
    first = reference(place, tmp_path, "run")
    fresh = reference(place, tmp_path, "other", **change)
    assert not torch.equal(first, fresh)
    assert torch.equal(reference(place, tmp_path, "run", **change), fresh)
    assert torch.equal(reference(place, tmp_path, "run"), first)
    assert len(list((tmp_path / "run").glob("reference-*"))) == 2


def test_half_a_reference_is_made_anew(place, tmp_path):
    """What a kill in the middle of its writing would leave, and has left of earlier versions."""
    first = reference(place, tmp_path, "run")
    (file,) = (tmp_path / "run").glob("reference-*")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(reference(place, tmp_path, "run"), first)
    assert file.read_bytes() == whole
    assert [path.name for path in (tmp_path / "run").glob("*reference-*")] == [file.name]


def test_half_a_cache_of_rows_or_of_tokens_is_made_anew(tmp_path, monkeypatch):
    """What a full disk or a crash of the machine would leave; at any place of its file."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "a.jsonl"
    tiny.write_rows(file, tiny.rows_of("text"))
    rules = TextRules(tiny.new_tokenizer(), Format.TEXT)

    def made():
        rows = files.find(file, files.Reader()).load("train")
        return rows["text"][:], prepare({"a": (rows, rules)}, itemgetter(0), None, "rows").rows[0]["input_ids"].tolist()

    first = made()
    kept = [*(tmp_path / "cache").rglob("*.arrow")]
    assert len(kept) == 2
    for path in kept:
        whole = path.read_bytes()
        for share in (0, 0.5):
            path.unlink()  # which is mapped into memory still
            path.write_bytes(whole[: int(share * len(whole))])
            assert made() == first, (path, share)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_rows_are_those_that_a_file_holds_now(tmp_path, kind):
    """Written anew with its time set back, as archives and file stores have it; and a link that points elsewhere."""
    head = {"csv": "text\n"}.get(kind, "")
    text = {"jsonl": '{{"text": "{}"}}\n'}.get(kind, "{}\n")
    written = [tmp_path / folder / f"a.{kind}" for folder in ("one", "two")]
    link = tmp_path / f"current.{kind}"
    for path, word in zip(written, ("cat", "dog"), strict=True):
        path.parent.mkdir()
        path.write_text(head + text.format(word))
        os.utime(path, (1e9, 1e9))
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        assert files.Reader(to_the_letter=True).load(files.kind_of(link), [str(link)])[0] == {"text": word}
    written[0].write_text(head + text.format("mat"))
    os.utime(written[0], (1e9, 1e9))
    link.unlink()
    link.symlink_to(written[0])
    assert files.Reader(to_the_letter=True).load(files.kind_of(link), [str(link)])[0] == {"text": "mat"}


def test_a_change_of_one_byte_of_a_file_is_another_digest(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(3 << 20))
    before = files.digest([str(path)])
    for place in (0, (3 << 20) // 2, (3 << 20) - 1):
        whole = bytearray(3 << 20)
        whole[place] = 1
        path.write_bytes(whole)
        assert files.digest([str(path)]) != before


def test_the_key_of_tokens_is_of_all_that_makes_them():
    table = datasets.Dataset.from_list([{"messages": [{"role": "user", "content": "the cat"}]}])
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    rules = TextRules(tokenizer, Format.MESSAGES)

    def with_token(**changes):
        made = tiny.new_tokenizer()
        made.chat_template = tokenizer.chat_template
        for attribute, value in changes.items():
            setattr(made, attribute, value)
        return replace(rules, tokenizer=made)

    others = [
        with_token(bos_token="<|im_start|>"), with_token(eos_token="<|im_end|>"), with_token(chat_template="{{ 1 }}"),
        with_token(split_special_tokens=True), replace(rules, assistant_only=True),
        replace(rules, final_turn_only=True), replace(rules, completion_only=False), replace(rules, text_column="a"),
        replace(rules, template_settings={"thinking": True}), replace(rules, format=Format.TEXT),
    ]  # fmt: skip
    keys = [fingerprint(table, one) for one in (rules, *others)]
    keys.append(fingerprint(datasets.Dataset.from_list([{"messages": []}]), rules))
    assert len(set(keys)) == len(keys)
    assert fingerprint(table, with_token()) == keys[0] == fingerprint(table, replace(rules, max_length=9))
    assert with_token(bos_token="<|im_start|>").row(table[0], 0)["input_ids"] != rules.row(table[0], 0)["input_ids"]


def test_token_rules_of_ones_own_that_are_edited_make_other_tokens(tmp_path, monkeypatch):
    """As `datasets.map` makes another fingerprint of another function."""
    monkeypatch.syspath_prepend(tmp_path)
    table, keys = datasets.Dataset.from_dict({"text": ["a b"]}), []
    for edit in ("upper", "title", "upper"):
        (tmp_path / "edited.py").write_text(
            "from trainwright.data.text.tokenize import TextRules\n\n\nclass Own(TextRules):\n"
            f"    def encode(self, row):\n        return super().encode({{**row, 'text': row['text'].{edit}()}})\n"
        )
        sys.modules.pop("edited", None)
        importlib.invalidate_caches()
        own = importlib.import_module("edited").Own
        keys.append(fingerprint(table, own(tiny.new_tokenizer(), Format.TEXT)))
    assert keys[0] == keys[2] != keys[1]
