"""What rows of text become: every format, what is learned of it, and what is said when something is lost."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch

from tests import tiny_language as tiny
from trainwright import ConfigError, DataError, Trainer, TrainingArguments
from trainwright.cli.main import main
from trainwright.config.params import TrainerType
from trainwright.config.reading.read import load_checked
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.sources.formats import canonical, format_of, with_prompt
from trainwright.data.text import chat, encode, turns
from trainwright.tasks.language.text import load_text

TALK = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat on"},
    {"role": "user", "content": "red dog"},
    {"role": "assistant", "content": "ran home"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("formats"))


def text_of(place, rows, tmp_path, kwargs=None, model=None, data=None, **training):
    """Load rows through a file, as a user would."""
    file = tmp_path / "rows.jsonl"
    if not file.exists() or file.read_text() != "".join(json.dumps(row) + "\n" for row in rows):
        tiny.write_rows(file, rows)
    content = tiny.settings(place, "text", trainer_kwargs=kwargs or {}, **training)
    content["model"] |= model or {}
    content["data"]["train"] = {"datasets": [{"dataset_name": str(tmp_path / "rows.jsonl")}], **(data or {})}
    return load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def learned(text, number=0):
    """The text that a row's labels stand for."""
    labels = text.train[number]["labels"]
    return text.tokenizer.decode(labels[labels != -100])


def test_text_ends_with_the_end_token(place, tmp_path):
    text = text_of(place, [{"text": "the cat"}, {"text": "the dog<|end|>"}], tmp_path)
    assert [learned(text, 0), learned(text, 1)] == ["the cat<|end|>", "the dog<|end|>"]
    assert text.notes == ["The data holds text, so this is SFT."]


def test_a_column_of_another_name(place, tmp_path):
    text = text_of(place, [{"story": "the cat"}], tmp_path, data={"target_col": "story"})
    assert learned(text) == "the cat<|end|>"


@pytest.mark.parametrize(
    ("only", "expected"), [(None, " sat<|end|>"), (True, " sat<|end|>"), (False, "the cat sat<|end|>")]
)
def test_completions(place, tmp_path, only, expected):
    kwargs = {} if only is None else {"completion_only_loss": only}
    text = text_of(place, [{"prompt": "the cat", "completion": " sat"}], tmp_path, kwargs)
    assert learned(text) == expected
    assert text.tokenizer.decode(text.train[0]["input_ids"]) == "the cat sat<|end|>"


def test_pretraining_learns_prompts_too(place, tmp_path):
    rows = [{"prompt": "the cat", "completion": " sat"}]
    text = text_of(place, rows, tmp_path, trainer_type="PRETRAIN")
    assert learned(text) == "the cat sat<|end|>"


def test_conversations_of_openai_and_of_sharegpt(place, tmp_path):
    share = [{"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in TALK]
    one = text_of(place, [{"messages": TALK}], tmp_path, model={"chat_template": "chatml"})
    other = text_of(place, [{"conversations": share}], tmp_path, model={"chat_template": "chatml"})
    assert torch.equal(one.train[0]["labels"], other.train[0]["labels"])
    expected = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\nsat on<|im_end|>\n"
    assert learned(one).startswith(expected)


@pytest.mark.parametrize(
    ("kwargs", "target", "expected"),
    [
        ({"assistant_only_loss": True}, None, "sat on<|im_end|>\nran home<|im_end|>\n"),
        ({}, "ALL_ASSISTANT_TURNS", "sat on<|im_end|>\nran home<|im_end|>\n"),
        ({}, "FINAL_ASSISTANT_TURN", "ran home<|im_end|>\n"),
    ],
)
def test_what_the_assistant_wrote(place, tmp_path, kwargs, target, expected):
    data = {"train_target": target} if target else {}
    text = text_of(place, [{"messages": TALK}], tmp_path, kwargs, {"chat_template": "chatml"}, data)
    assert learned(text) == expected


def test_conversational_prompt_and_completion(place, tmp_path):
    rows = [{"prompt": TALK[:3], "completion": TALK[3:]}]
    text = text_of(place, rows, tmp_path, model={"chat_template": "chatml"})
    assert learned(text) == "ran home<|im_end|>\n"


def test_rows_of_tokens_are_taken_as_they_are(place, tmp_path):
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}, {"input_ids": [9, 10], "labels": [9, 10]}]
    text = text_of(place, rows, tmp_path)
    assert text.train[0]["labels"].tolist() == [-100, -100, 7, 8]
    masked = [{"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]}]
    assert text_of(place, masked, tmp_path).train[0]["labels"].tolist() == [-100, -100, 7, 8]


def test_preferences_with_and_without_a_prompt(place, tmp_path):
    explicit = text_of(place, [{"prompt": "the cat", "chosen": " sat", "rejected": " ran"}], tmp_path)
    implicit = text_of(place, [{"chosen": "the cat sat", "rejected": "the cat ran"}], tmp_path)
    for text in (explicit, implicit):
        assert text.method.name == TrainerType.DPO
        row = text.train[0]
        decoded = [text.tokenizer.decode(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        assert decoded == ["the cat", " sat<|end|>", " ran<|end|>"]
    talk = {"chosen": [*TALK[:3], TALK[3]], "rejected": [*TALK[:3], {"role": "assistant", "content": "no"}]}
    text = text_of(place, [talk], tmp_path, model={"chat_template": "chatml"})
    assert text.tokenizer.decode(text.train[0]["chosen_ids"]) == "ran home<|im_end|>\n"
    assert text.tokenizer.decode(text.train[0]["rejected_ids"]) == "no<|im_end|>\n"


@pytest.mark.parametrize(
    "row",
    [{"prompt": [TALK[0]], "chosen": "sat", "rejected": "ran"},
     {"prompt": "the cat", "chosen": [{"role": "assistant", "content": "sat"}], "rejected": "ran"},
     {"prompt": "the cat", "chosen": [TALK[0], {"role": "assistant", "content": "sat"}],
      "rejected": [TALK[0], {"role": "assistant", "content": "ran"}]}],
    ids=["chat prompt", "chat answer", "the prompt in the answers too"],
)  # fmt: skip
def test_preferences_that_mix_texts_and_messages(place, tmp_path, row):
    text = text_of(place, [row], tmp_path, model={"chat_template": "chatml"})
    decoded = [text.tokenizer.decode(text.train[0][f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")]
    prompt = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert decoded == [prompt, "sat<|im_end|>\n", "ran<|im_end|>\n"]


def test_completions_that_mix_texts_and_messages(place, tmp_path):
    text = text_of(place, [{"prompt": [TALK[0]], "completion": "sat"}], tmp_path, model={"chat_template": "chatml"})
    assert learned(text) == "sat<|im_end|>\n"


def marking(place, folder, pattern):
    """A model's folder whose tokenizer sets marks around every text."""
    from tokenizers import processors

    tokenizer = tiny.new_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    marks = [("<|im_start|>", 2), ("<|end|>", 0)]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=marks)
    tokenizer.save_pretrained(folder)
    return {"tokenizer_name": str(folder)}


@pytest.mark.parametrize(
    ("pattern", "row", "expected"),
    [("<|im_start|> $A", {"text": "<|im_start|>the cat"}, "<|im_start|>the cat<|end|>"),
     ("<|im_start|> $A", {"text": "the cat"}, "<|im_start|>the cat<|end|>"),
     ("<|im_start|> $A <|end|>", {"text": "the cat<|end|>"}, "<|im_start|>the cat<|end|>"),
     ("<|im_start|> $A <|end|>", {"prompt": "the", "completion": " cat"}, "<|im_start|>the cat<|end|>"),
     ("<|im_start|> $A <|end|>", {"prompt": "the", "chosen": " cat", "rejected": " dog"}, "<|im_start|>the cat<|end|>"),
     ("<|im_start|> $A", {"text": "<|im_start|><|im_start|>cat"}, "<|im_start|><|im_start|>cat<|end|>")],
)  # fmt: skip
def test_begin_and_end_tokens_stand_there_once(place, tmp_path, pattern, row, expected):
    text = text_of(place, [row], tmp_path, model=marking(place, tmp_path / "marks", pattern))
    first = text.train[0]
    ids = first["input_ids"] if "input_ids" in first else torch.cat([first["prompt_ids"], first["chosen_ids"]])
    assert text.tokenizer.decode(ids) == expected
    doubled = row.get("text", "").startswith("<|im_start|>") or "<|end|>" in pattern
    assert any("it stands there once" in note for note in text.notes) == doubled


@pytest.mark.parametrize("muted", [{"weight": 0}, {"train": False}])
@pytest.mark.parametrize("marked", [False, True], ids=["any template", "a template with marks"])
def test_a_turn_that_weighs_nothing_is_not_learned(place, tmp_path, muted, marked):
    template = chat.NAMED_TEMPLATES["chatml"]
    if marked:
        template = (
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
            "{% generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
            "{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        )
    rows = [{"messages": [TALK[0], {**TALK[1], **muted}, TALK[2], {**TALK[3], "weight": 1}]}]
    text = text_of(place, rows, tmp_path, {"assistant_only_loss": True}, {"chat_template": template})
    assert learned(text) == "ran home<|im_end|>\n"
    everything = text_of(place, rows, tmp_path, {}, {"chat_template": template})
    whole = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in TALK)
    own = "sat on<|im_end|>\n" if not marked else "<|im_start|>assistant\nsat on<|im_end|>\n"
    assert learned(everything) == whole.replace(own, "")


def test_text_stays_text(place, tmp_path):
    """The reference is python's own reader of CSV, and what stands in the JSON."""
    file = tmp_path / "a.csv"
    file.write_text('prompt,completion\nis it?,NA\nname?,null\n1+1,2\nzip?,0010\nsay,"a, b"\n')
    with file.open(newline="") as rows:
        expected = [row["completion"] + "<|end|>" for row in csv.DictReader(rows)]
    assert completions(place, tmp_path, file) == expected
    dates = ["2020-01-02", "2020-01-02 10:00:00", "2020-01-02T00:00:00Z"]
    file = tiny.write_rows(tmp_path / "a.jsonl", [{"prompt": "when?", "completion": date} for date in dates])
    assert completions(place, tmp_path, file) == [date + "<|end|>" for date in dates]


def completions(place, tmp_path, file, **dataset):
    content = tiny.settings(place, "text")
    content["data"]["train"]["datasets"] = [{"dataset_name": str(file), **dataset}]
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    return [learned(text, number) for number in range(len(text.train))]


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """Train and test files, a folder for validation, and the same saved by `datasets`."""
    root = tmp_path_factory.mktemp("splits")
    folder = root / "files"
    (folder / "dev").mkdir(parents=True)
    parts = {"train": 4, "more": 2, "my-test": 3, "dev/a": 2}
    for name, count in parts.items():
        tiny.write_rows(folder / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(count)])
    tables = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(3)]}) for name in ("train", "test")
    }
    datasets.DatasetDict(tables).save_to_disk(str(root / "saved"))
    return root


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [("files", "train", ["more 0", "more 1", "train 0", "train 1", "train 2", "train 3"]),
     ("files", "test", ["my-test 0", "my-test 1", "my-test 2"]),
     ("files", "val", ["dev/a 0", "dev/a 1"]),
     ("files", "train[:2]", ["more 0", "more 1"]),
     ("files", "test[1:]+validation[50%:]", ["my-test 1", "my-test 2", "dev/a 1"]),
     ("files/my-test.jsonl", "train", ["my-test 0", "my-test 1", "my-test 2"]),
     ("files/my-test.jsonl", "test[-1:]", ["my-test 2"]),
     ("saved", "test", ["test 0", "test 1", "test 2"]),
     ("saved", "train[:1]", ["train 0"])],
)  # fmt: skip
def test_splits_of_local_data_are_obeyed(place, tmp_path, many_files, name, split, expected):
    assert completions(place, tmp_path, many_files / name, split=split) == [row + "<|end|>" for row in expected]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [("files", "tets", "files' has no split 'tets'; it has test, train, validation."),
     ("files/train.jsonl", "test", "train.jsonl' has no split 'test'; it has train."),
     ("saved", "validation", "saved' has no split 'validation'; it has test, train."),
     ("files", "train[:x]", "split 'train[:x]' cannot be read: Unrecognized instruction format")],
)  # fmt: skip
def test_splits_that_are_not_there_are_refused(place, tmp_path, many_files, name, split, message):
    with pytest.raises(DataError, match=re.escape(message)):
        completions(place, tmp_path, many_files / name, split=split)


def test_a_text_column_given_to_the_trainer_ends_as_from_a_file(place, tmp_path):
    rows = [{"text": "the cat"}, {"text": "the dog<|end|>"}]
    from_file = text_of(place, rows, tmp_path).train
    arguments = TrainingArguments(str(tmp_path / "out"), use_cpu=True, max_steps=1, save_strategy="no")
    trainer = Trainer(tiny.new_model(), arguments, train_dataset=rows, processing_class=tiny.new_tokenizer())
    for number in range(2):
        assert torch.equal(trainer.train_dataset[number]["labels"], from_file[number]["labels"])
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    trainer = Trainer(tiny.new_model(), arguments, train_dataset=stream, processing_class=tiny.new_tokenizer())
    assert [row["labels"].tolist() for row in trainer.train_dataset] == [row["labels"].tolist() for row in from_file]
    assert trainer.train().global_step == 1
    with pytest.raises(DataError, match="Row 1 has None in 'text'"):
        Trainer(
            tiny.new_model(), arguments, train_dataset=[*rows[:1], {"text": None}],
            processing_class=tiny.new_tokenizer(),
        )  # fmt: skip


def test_the_prompt_of_an_implicit_preference_is_trls():
    trl = pytest.importorskip("trl", reason="trl is not installed")
    rng = random.Random(0)
    for _ in range(50):
        shared = tiny.sentence(rng, 1, 6)
        row = {"chosen": f"{shared} {tiny.sentence(rng, 1, 4)}", "rejected": f"{shared} {tiny.sentence(rng, 1, 4)} z"}
        assert with_prompt(row) == trl.extract_prompt(row)


def test_tools_reach_the_template(place, tmp_path):
    template = "{% if tools %}tools: {{ tools[0].name }}\n{% endif %}" + chat.NAMED_TEMPLATES["chatml"]
    rows = [{"messages": TALK, "tools": json.dumps([{"name": "search"}])}]
    assert learned(text_of(place, rows, tmp_path, model={"chat_template": template})).startswith("tools: search\n")


TEMPLATES = [
    "cohere", "cohere2", "gemma", "gemma3", "lfm2", "llama3", "phi3", "qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl",
]  # fmt: skip


@pytest.mark.parametrize("family", TEMPLATES)
def test_assistant_turns_of_known_templates_are_those_that_trl_marks(family):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from transformers.utils.chat_template_utils import render_jinja_template

    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer = tiny.new_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    marked = (folder / f"{family}_training.jinja").read_text()
    (full,), (spans,) = render_jinja_template(
        [TALK], chat_template=marked, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
    )
    tokenizer.chat_template = (folder / f"{family}.jinja").read_text()
    assert not chat.has_marks(tokenizer)
    text = chat.render(tokenizer, TALK)
    assert text == full
    ours = turns.spans_of(tokenizer, TALK, text, turns.assistant_turns(TALK))
    assert {i for start, end in ours for i in range(start, end)} == {i for a, b in spans for i in range(a, b)}


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("family", ["idefics3", "llava_next", "smolvlm"])
def test_templates_that_read_parts_alone_are_given_parts(place, tmp_path, family, marked):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from transformers.utils.chat_template_utils import render_jinja_template

    folder = Path(trl.__file__).parent / "chat_templates"
    in_parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in TALK]
    (full,), (spans,) = render_jinja_template(
        [in_parts],
        chat_template=(folder / f"{family}_training.jinja").read_text(),
        return_assistant_tokens_mask=True,
        **tiny.new_tokenizer().special_tokens_map,
    )
    template = (folder / f"{family}{'_training' if marked else ''}.jinja").read_text()
    rows, given = [{"messages": TALK}], {"chat_template": template}
    whole = text_of(place, rows, tmp_path, model=given)
    assert learned(whole).startswith(full.rstrip())
    answers = text_of(place, rows, tmp_path, {"assistant_only_loss": True}, given)
    assert learned(answers).split() == "".join(full[start:end] for start, end in spans).split()


def test_a_template_that_strips_earlier_thoughts_is_masked_by_content():
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' and not loop.last %}"
        "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}{{ '<end>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    thoughtful = [{**m, "content": f"hm</think>{m['content']}"} if m["role"] == "assistant" else m for m in TALK]
    text = chat.render(tokenizer, thoughtful)
    spans = turns.spans_of(tokenizer, thoughtful, text, turns.assistant_turns(thoughtful))
    assert [text[a:b] for a, b in spans] == ["sat on<end>", "hm</think>ran home<end>"]


def test_what_is_cut_off_is_counted(place, tmp_path):
    rows = [{"text": "the cat sat on mat " * 9}, {"text": "the"}]
    text = text_of(place, rows, tmp_path, {"max_length": 20})
    whole = len(text.tokenizer(rows[0]["text"] + "<|end|>")["input_ids"])
    assert len(text.train[0]["input_ids"]) == 20
    assert f"1 of 2 rows of the training data are longer than max_length=20; {whole - 20} tokens" in text.notes[1]


def test_rows_without_anything_to_learn_are_named_and_left_out(place, tmp_path):
    rows = [{"prompt": "the", "completion": " cat"}, {"prompt": "the cat sat on " * 9, "completion": "x"}]
    text = text_of(place, rows, tmp_path, {"max_length": 20})
    assert len(text.train) == 1
    assert "1 of 2 rows of the training data have nothing to learn" in text.notes[2]
    assert text.notes[2].endswith("are left out: row 1.")
    with pytest.raises(DataError, match="No row of the training data has anything to learn"):
        text_of(place, rows[1:], tmp_path, {"max_length": 20})


def test_a_model_that_would_not_stop_is_told(place, tmp_path):
    text = text_of(place, [{"messages": TALK}], tmp_path, model={"chat_template": "chatml"})
    assert any("No answer that is learned holds the end token '<|end|>'" in note for note in text.notes)
    right = text_of(place, [{"messages": TALK}], tmp_path, {"eos_token": "<|im_end|>"}, {"chat_template": "chatml"})
    assert not any("end token" in note for note in right.notes)
    with pytest.raises(
        ConfigError, match=r"eos_token '<\|im_ende\|>' is not in the tokenizer's vocabulary. Did you me"
    ):
        text_of(place, [{"messages": TALK}], tmp_path, {"eos_token": "<|im_ende|>"}, {"chat_template": "chatml"})


def test_a_tokenizer_without_an_end_token_learns_the_answer_alone(place, tmp_path):
    endless = tiny.new_tokenizer()
    endless.eos_token = None
    shutil.copytree(place / "model", tmp_path / "model")
    endless.save_pretrained(tmp_path / "model")
    rows = [{"prompt": "the", "completion": " cat"}]
    text = text_of(place, rows, tmp_path, model={"model_name": str(tmp_path / "model")})
    assert learned(text) == " cat"
    assert not any("end token" in note for note in text.notes)


@pytest.mark.parametrize("packing", [True, False])
def test_answers_that_are_cut_off_say_nothing_of_the_end_token(place, tmp_path, packing):
    rows = [{"prompt": "the", "completion": " cat sat on mat" * 9}] * 9 + [{"prompt": "the", "completion": " cat"}]
    kwargs = {"max_length": 20, "packing": packing}
    text = text_of(place, rows, tmp_path, kwargs)
    assert "<|end|>" not in learned(text)  # the longest come first
    assert not any("end token" in note for note in text.notes)
    assert len(text_of(place, rows[:9], tmp_path, kwargs).train) == 9  # not one is whole
    talk = [{"messages": TALK}, {"messages": [{"role": "user", "content": "the cat " * 30}, *TALK]}]
    chatml = text_of(place, talk, tmp_path, {**kwargs, "max_length": 90}, {"chat_template": "chatml"})
    assert any("No answer that is learned holds the end token" in note for note in chatml.notes)


def test_special_tokens_that_the_tokenizer_does_not_have_are_told(place, tmp_path):
    template = chat.NAMED_TEMPLATES["chatml"].replace("<|im_", "<|turn_")
    text = text_of(place, [{"messages": TALK}], tmp_path, model={"chat_template": template})
    assert any("<|turn_end|>, <|turn_start|>, which the tokenizer knows only as several" in note for note in text.notes)


def test_what_was_tokenised_once_is_not_again(place, tmp_path, monkeypatch):
    from trainwright.data.text import tokenize

    calls = []
    rows_of = tokenize.TextRules.rows
    monkeypatch.setattr(
        tokenize.TextRules, "rows", lambda self, rows, *rest: calls.extend(rows) or rows_of(self, rows, *rest)
    )
    rows = [{"messages": TALK}, {"messages": TALK[:2]}]
    text_of(place, rows, tmp_path, model={"chat_template": "chatml"})
    assert len(calls) == 2
    text_of(place, rows, tmp_path, model={"chat_template": "chatml"})
    assert len(calls) == 2
    text_of(place, rows, tmp_path, model={"chat_template": "plain"})  # another template
    assert len(calls) == 4
    text_of(place, rows[:1], tmp_path, model={"chat_template": "chatml"})  # other content
    assert len(calls) == 5


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "arrow", "txt", "folder", "saved"])
def test_files_of_every_kind(place, tmp_path, kind):
    table = datasets.Dataset.from_list([{"text": "the cat"}, {"text": "sat, on"}])
    target = tmp_path / f"data.{kind}"
    if kind in ("json", "jsonl", "csv", "parquet"):
        getattr(table, f"to_{kind.removesuffix('l')}")(str(target))
    elif kind == "txt":
        target.write_text("the cat\nsat, on\n")
    elif kind == "folder":
        target.mkdir()
        for number in range(2):
            tiny.write_rows(target / f"{number}.jsonl", [table[number]])
    else:
        table.save_to_disk(str(tmp_path / "saved"))
        target = tmp_path / "saved" if kind == "saved" else next((tmp_path / "saved").glob("*.arrow"))
    content = tiny.settings(place, "text")
    content["data"]["train"]["datasets"] = [{"dataset_name": str(target)}]
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    assert [learned(text, 0), learned(text, 1)] == ["the cat<|end|>", "sat, on<|end|>"]


def test_a_mixture_keeps_its_proportions(place, tmp_path):
    tiny.write_rows(tmp_path / "a.jsonl", [{"text": f"cat {i}", "more": 1} for i in range(2000)])
    tiny.write_rows(tmp_path / "b.jsonl", [{"text": f"dog {i}"} for i in range(2000)])
    content = tiny.settings(place, "text")
    parts = [("a", 0.8), ("b", 0.2)]
    content["data"]["train"]["datasets"] = [
        {"dataset_name": str(tmp_path / f"{name}.jsonl"), "mixture_proportion": share} for name, share in parts
    ]
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    cats = sum(learned(text, i).startswith("cat") for i in range(1000))
    assert 750 < cats < 850  # 800, four standard deviations


def test_packing_is_reported(place, tmp_path):
    text = text_of(place, tiny.rows_of("text", 50), tmp_path, {"packing": True, "max_length": 64})
    assert isinstance(text.train, PackedRows)
    assert any("rows packed into" in note and "% full" in note for note in text.notes)
    assert any("packing_strategy: bfd_split keeps them" in note for note in text.notes)


def test_rows_that_are_not_packed_for_evaluation_are_cut_all_the_same(place, tmp_path):
    kwargs = {"packing": True, "max_length": 16, "eval_packing": False}
    tiny.write_rows(tmp_path / "held_out.jsonl", tiny.rows_of("text", 10))
    content = tiny.settings(place, "text", trainer_kwargs=kwargs)
    content["data"]["validation"] = {"datasets": [{"dataset_name": str(tmp_path / "held_out.jsonl")}]}
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    assert isinstance(text.train, PackedRows)
    assert not isinstance(text.evaluation, PackedRows)
    assert max(text.evaluation.lengths) == 16


BAD = {
    "other names": (
        [{"question": "a", "answer": "b"}],
        "learned from. Say what they are: column_map: {question: prompt, answer: completion}. Known",
    ),
    "half of it": ([{"prompt": "a", "response": "b"}], "Say what they are: column_map: {response: completion}. Known"),
    "columns": ([{"txt": "a"}], "The data has the columns txt, which are none that can be learned from. Did you mean"),
    "a message": ([{"messages": [{"rol": "user"}]}], "Row 0: a message in 'messages' has the keys rol; it needs"),
    "a number": ([{"text": 3}], "Row 0 has 3 in 'text', where a text is expected"),
    "no template": ([{"messages": TALK}], "the tokenizer has no chat template. Give model.chat_template"),
    "no template for a prompt": ([{"prompt": TALK[:1], "completion": TALK[1:2]}], "has no chat template. Give model"),
    "tools": ([{"messages": TALK, "tools": "{x"}], "Row 0: 'tools' is a text, but not JSON"),
    "labels": ([{"input_ids": [1, 2], "labels": [1]}], "Row 0: 2 input_ids but 1 labels"),
    "half tokens": ([{"input_ids": [1, 2.5]}], "Row 0 is not tokens: TypeError 2.5 is no whole number"),
    "an empty conversation": ([{"messages": TALK}, {"messages": []}], "Row 1 has no message in 'messages'"),
    "a null": ([{"text": "the cat"}, {"text": None}], "Row 1 has None in 'text'. Drop the row"),
    "null labels": ([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1], "labels": None}], "Row 1 has None in"),
    "roles": ([{"messages": TALK[:1]}], "Row 0: The chat template refuses a conversation of the roles user: no"),
    "a weight": ([{"messages": [TALK[0], {**TALK[1], "weight": 0.5}]}], "in 'messages' has weight 0.5 and train None"),
    "no prompt": ([{"chosen": TALK[1:2], "rejected": TALK[3:]}], "Row 0: There is no prompt: 'chosen' and 'rejected'"),
    "nothing": ([], "is empty: it has no row"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_rows(place, tmp_path, name):
    rows, message = BAD[name]
    with pytest.raises((DataError, ConfigError), match=re.escape(message)) as caught:
        template = "{{ raise_exception('no') }}" if name == "roles" else "chatml"
        text_of(place, rows, tmp_path, model={} if "template" in name else {"chat_template": template})
    assert not any(word in str(caught.value) for word in ("Traceback", "ConfigError"))


def test_no_template_is_told_where_the_assistants_turns_are_wanted(place, tmp_path):
    with pytest.raises(ConfigError, match="the tokenizer has no chat template. Give model.chat_template"):
        text_of(place, [{"messages": TALK}], tmp_path, {"assistant_only_loss": True}, model={})


def test_a_kind_that_does_not_fit_the_data(place, tmp_path):
    with pytest.raises(ConfigError, match="trainer_type SFT learns from text.*, but the data holds preference"):
        text_of(place, tiny.rows_of("preference", 2), tmp_path, trainer_type="SFT")
    with pytest.raises(ConfigError, match="trainer_kwargs.beta is no setting of supervised fine-tuning"):
        text_of(place, tiny.rows_of("text", 2), tmp_path, {"beta": 0.2})


def test_formats_and_messages():
    assert format_of(["prompt", "chosen", "rejected"]).value == "preference"
    with pytest.raises(DataError, match="Known: 'text'"):
        format_of(["a", "b"])
    row = canonical({"conversations": [{"from": "gpt", "value": "x"}], "none": None}, 0)
    assert row == {"messages": [{"role": "assistant", "content": "x"}]}


def test_data_show(place, tmp_path, capsys):
    content = tiny.settings(place, "completion")
    file = tiny.write_yaml(tmp_path / "run.yaml", content)
    assert main(["data", "show", "-c", str(file), "-n", "2"]) == 0
    out = capsys.readouterr().out
    first = tiny.rows_of("completion", 1)[0]
    assert f"{first['prompt'].rstrip()}[[" in out.replace(" [[", "[[")
    assert "<|end|>]]" in out
    assert out.count("--- row") == 2
    packed = ["training.trainer_kwargs.packing=true", "training.trainer_kwargs.max_length=128"]
    assert main(["data", "show", "-c", str(file), "-n", "1", *packed]) == 0
    assert "row 0, document 1 of" in capsys.readouterr().out


def test_a_call_of_the_tokenizer_takes_no_more_texts_once_it_is_long_enough(monkeypatch):
    monkeypatch.setattr(encode, "_CHARACTERS", 10)
    asked = [encode.Asked("x" * length) for length in (4, 6, 1, 20, 3, 3, 3, 3)]
    assert encode._portions(range(8), asked) == [[0, 1], [2, 3], [4, 5, 6, 7]]
