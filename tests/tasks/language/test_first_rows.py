"""What `check` accepts can be trained: it looks at the first rows of data that lie here."""

from __future__ import annotations

import json

import pytest

from tests import tiny_language as tiny
from tests.installed import with_trl
from trainwright import DataError
from trainwright.cli.main import main
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ASKED = {"messages": [{"role": "user", "content": "a"}]}
CHATML = {"model.chat_template": "chatml"}
LONG = {"prompt": "the cat " * 99, "completion": "sat"}
DATA = {  # file, what it holds, what is set beside, what is said
    "nothing": ("rows.jsonl", "", {}, "'rows.jsonl' is empty: it has no row"),
    "half a row": ("rows.jsonl", '{"text": "a"}\n{"text": ', {}, "'rows.jsonl' cannot be read: line 2 is not JSON"),
    "a number": ("rows.jsonl", "3\n", {}, "a line is no row, which is {...}"),
    "other columns": ("rows.jsonl", {"question": "a", "answer": "b"}, {}, "column_map: {question: prompt, answer: com"),
    "columns of a table": ("rows.csv", "txt\na\n", {}, "The data has the columns txt"),
    "a column that is not there": (
        "rows.jsonl", {"q": "a"}, {"data.train.datasets.0.column_map": "{x: text}"}, "has no column 'x'",
    ),
    "no pairs": ("rows.jsonl", {"text": "a"}, {"training.trainer_type": "DPO"}, "DPO learns from 'chosen' and"),
    "no template": ("rows.jsonl", CHAT, {}, "these are conversations, and the tokenizer has no chat template"),
    "a turn without a role": ("rows.jsonl", {"messages": [{"content": "a"}]}, CHATML, "Row 0"),
    "nobody's turns": (
        "rows.jsonl", ASKED, {**CHATML, "training.trainer_kwargs.assistant_only_loss": "true"},
        "the row would have nothing to learn: the assistant's turns are learned, and there are turns of user alone",
    ),
    "masked labels": ("rows.jsonl", {"input_ids": [1, 2], "labels": [-100, -100]}, {}, "number in 'labels' is -100"),
    "prompts that fill the row": (
        "rows.jsonl", LONG, {"model.model_max_length": "20"}, "their prompts alone fill max_length 20",
    ),
    "a list of rows": ("rows.json", '[{"text": "a"}]', {}, None),
    "a long prompt with room": ("rows.jsonl", LONG, {"model.model_max_length": "400"}, None),
    "a template": ("rows.jsonl", CHAT, {"model.chat_template": "chatml"}, None),
    "alpaca": ("rows.jsonl", {"instruction": "a", "input": "", "output": "b"}, {"model.chat_template": "chatml"}, None),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_place(tmp_path))
    return tmp_path


def write(place, name, held):
    (place / name).write_text(held if isinstance(held, str) else json.dumps(held) + "\n")
    content = tiny.settings(place, "text")
    content["data"]["train"]["datasets"] = [{"dataset_name": name}]
    tiny.write_yaml(place / "run.yaml", content)


@pytest.mark.parametrize("name", DATA)
def test_check_opens_the_first_rows(place, name, capsys):
    file, held, beside, said = DATA[name]
    write(place, file, held)
    code = main(["check", "run.yaml", *(f"{key}={value}" for key, value in beside.items())])
    shown = capsys.readouterr()
    if said is None:
        assert (code, shown.err) == (0, "")
        return
    assert code == 2
    assert said in shown.err
    assert "run.yaml:6: " in shown.err, "the line that names the dataset"
    assert "Traceback" not in shown.err


def test_a_parquet_file_is_opened(place, capsys):
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"txt": ["a"]}), place / "x.parquet")
    write(place, "rows.jsonl", {"text": "a"})
    assert main(["check", "run.yaml", "data.train.datasets.0.dataset_name=x.parquet"]) == 2
    assert "The data has the columns txt" in capsys.readouterr().err
    (place / "x.parquet").write_bytes(b"no table")
    assert main(["check", "run.yaml", "data.train.datasets.0.dataset_name=x.parquet"]) == 2
    assert "'x.parquet' cannot be read" in capsys.readouterr().err


def test_packages_that_are_missing_are_known(place, capsys, monkeypatch):
    write(place, "rows.jsonl", {"text": "a"})
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name in ("wandb", "bitsandbytes") else found(name, *more),
    )
    assert main(["check", "run.yaml", "training.enable_wandb=true", "training.optimizer=paged_adamw_8bit"]) == 2
    said = capsys.readouterr().err
    assert "enable_wandb needs the package 'wandb', which is not installed" in said
    assert "optimizer paged_adamw_8bit needs the package 'bitsandbytes'" in said
    for named in ("wandb", "[tensorboard,wandb]"):
        assert main(["check", "run.yaml", f"training.report_to={named}"]) == 2
        assert "report_to wandb needs the package 'wandb', which is not installed" in capsys.readouterr().err


@with_trl
def test_a_stream_is_not_for_other_libraries(place, capsys):
    write(place, "rows.jsonl", {"text": "a"})
    assert main(["check", "run.yaml", "training.trainer_type=TRL_SFT", "data.train.stream=true"]) == 2
    assert "streams of texts are read by our own trainers only" in capsys.readouterr().err


def test_a_file_of_another_command_is_told_with_that_command(place, capsys):
    (place / "calt.yaml").write_text("data: {}\nmodel: {}\ntrain: {}\n")
    (place / "policy.yaml").write_text("data: {}\npolicy: {}\ntrain: {}\n")
    for name, command in (("calt", "algebra train"), ("policy", "imitation train")):
        assert main(["check", f"{name}.yaml"]) == 2
        assert f"is a file for another command: trainwright {command} {name}.yaml" in capsys.readouterr().err
    assert main(["algebra", "train", "calt.yaml", "training.max_steps=3"]) == 2  # a key of the others' files
    assert "calt.yaml: unknown key 'training'. Did you mean 'train'?" in capsys.readouterr().err


TURNS = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "the mat"}]
OTHER = {"role": "assistant", "content": "it"}
MIXED = {
    "a prompt that is a text": {"prompt": "a cat", "chosen": TURNS[1:], "rejected": [OTHER]},
    "a prompt that is told twice": {
        "prompt": "a cat",
        "chosen": TURNS,
        "rejected": [TURNS[0], {**TURNS[1], "content": "b"}],
    },
}


@pytest.mark.slow
@with_trl
@pytest.mark.parametrize("name", MIXED)
def test_lists_of_messages_train_with_trl_as_with_ours(place, name):
    tiny.write_rows(place / "rows.jsonl", [MIXED[name]] * 4)
    content = tiny.settings(place, "rows", max_steps=1, bf16=False)
    content["model"]["chat_template"] = "chatml"
    seen = {}
    for kind in ("DPO", "TRL_DPO"):
        path = tiny.write_yaml(place / "run.yaml", content)
        trainer = built(load_checked(path, [f"training.trainer_type={kind}", "training.output_dir=" + kind]).config)
        seen[kind] = (trainer.train().training_loss, list(trainer.trainer.train_dataset[0]["prompt_ids"]))
    assert seen["DPO"][1] == seen["TRL_DPO"][1]
    assert seen["DPO"][0] == pytest.approx(seen["TRL_DPO"][0], abs=1e-5)  # float32, sums in another order


def test_a_comparison_goes_on_without_who_refuses(place, capsys, monkeypatch):
    from trainwright.errors import ConfigError
    from trainwright.upstream import compare

    write(place, "rows.jsonl", {"text": "a"})

    def run(file, overrides, engine, steps):
        if engine == "HF":
            raise ConfigError("HF failed (exit code 1):\nno kernel")
        return compare.Result([1.0] * steps, [1.0] * steps, [1.0] * steps, [1] * steps, 1.0)

    monkeypatch.setattr(compare, "_in_a_process", run)
    words = ["compare", "run.yaml", "--engines", "SFT,TRL_SFT,HF", "--steps", "4", "--rounds", "2"]
    assert main([*words, "data.train.train_target=FINAL_ASSISTANT_TURN"]) == 0
    said = capsys.readouterr().out
    assert "Not compared: TRL_SFT, for " in said
    assert "TRL learns all of the assistant's turns" in said
    assert "Not compared: HF, for HF failed (exit code 1):\nno kernel" in said
    assert said.count(": HF\n") == 1, "it is not tried again"
    monkeypatch.setattr(compare, "_in_a_process", lambda *given: run(*given[:2], "HF", 4))
    assert main(words) == 2


TRIED = {  # what rows hold, what is set beside, and what is said; tokenised as training does it
    "numbers": ([{"text": 3}], {}, "Row 0 has 3 in 'text', where a text is expected"),
    "None in a later row": ([{"text": "a"}, {"text": None}], {}, "Row 1 has None in 'text'"),
    "texts of nothing": ([{"text": ""}], {}, "the row would have nothing to learn"),
    "blank lines": ("\n\n", {}, "rows.jsonl"),
    "pairs for messages": ([{"conversations": [["a", "b"]]}], CHATML, "'messages' holds [['a', 'b']]"),
    "turns that are all muted": (
        [{"messages": [ASKED["messages"][0], {"role": "assistant", "content": "b", "train": False}]}],
        {**CHATML, "training.trainer_kwargs.assistant_only_loss": "true"}, "would have nothing to learn",
    ),
    "a template that refuses": (
        [{"messages": [{"role": "user", "content": "a"}] * 2}],
        {"model.chat_template": "refusing.jinja"}, "roles must alternate",
    ),
    "another library's setting": ([{"text": "a"}], {"data.train.datasets.0.dataset_kwargs": "{delimiter: ;}"}, "delim"),
    "a split that is not there": ([{"text": "a"}], {"data.train.datasets.0.split": "test"}, "has no split 'test'"),
    "a slice": ([{"text": "a"}] * 4, {"data.train.datasets.0.split": "train[:2]"}, None),
    "a class that is none": (
        [{"text": "a", "label": 1}, {"text": "a", "label": 0.5}], {"training.trainer_type": "CLASSIFY"},
        "0.5 is no class",
    ),
    "a model of another kind": (
        [{"prompt": "a", "completion": "b"}], {"training.trainer_type": "SEQ2SEQ"},
        "SEQ2SEQ trains models of AutoModelForSeq2SeqLM, and 'model' is a llama, which is none",
    ),
    "rows of pairs": ([{"chosen": "a b", "rejected": "a c"}], {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TRIED)
def test_check_tokenises_the_first_rows_as_training_does(place, name, capsys):
    held, beside, said = TRIED[name]
    write(place, "rows.jsonl", held if isinstance(held, str) else "\n".join(json.dumps(row) for row in held))
    (place / "refusing.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    words = ["run.yaml", "model.model_name=model", *(f"{key}={value}" for key, value in beside.items())]
    code = main(["check", *words])
    shown = capsys.readouterr().err
    assert main(["train", *words, "training.max_steps=1"]) == code, "what is accepted trains, and what is not does not"
    if said is None:
        assert (code, shown) == (0, "")
        return
    assert code == 2
    assert said in shown
    assert "run.yaml:6: " in shown, "the line that names the dataset"


FILES = {  # how files are written, and what is said
    "a mark of byte order": ("rows.jsonl", b'\xef\xbb\xbf{"text": "a"}\n', None),
    "a table with a mark of byte order": ("rows.csv", b"\xef\xbb\xbftext,x\na,1\n", None),
    "a long cell": ("rows.csv", b"text,x\n" + b"a " * 70_000 + b",1\n", None),
    "another alphabet": ("rows.jsonl", '{"text": "caf\u00e9"}\n'.encode("latin-1"), "it is no UTF-8"),
    "another alphabet of a table": ("rows.csv", "text,x\na,1\n".encode("utf-16"), "it is no UTF-8"),
    "a list that is cut off": ("rows.json", b'[{"text": "a"}, {"te', "rows.json' cannot be read"),
    "a comma in a text": ("rows.csv", b"text,x\na,1\nb, c, d,2\n", "row 2 has more cells than there are columns"),
    "a head alone": ("rows.csv", b"text,x\n", "rows.csv"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_by_check_as_by_training(place, name, capsys):
    file, held, said = FILES[name]
    write(place, file, "")
    (place / file).write_bytes(held)
    words = ["run.yaml", "model.model_name=model"]
    code = main(["check", *words])
    shown = capsys.readouterr().err
    assert code == (0 if said is None else 2)
    assert said is None or said in shown
    assert main(["train", *words, "training.max_steps=1"]) == code


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta"])
def test_rows_are_no_longer_than_a_models_table_of_positions(place, kind, caplog, capsys):
    """RoBERTa's begins after the padding token's number."""
    import transformers
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 32, "max_position_embeddings": 66 if kind == "roberta" else 64, "pad_token_id": 1}
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **more)).save_pretrained(place / kind)
    tiny.new_tokenizer().save_pretrained(place / kind)
    transformers.logging.set_verbosity_error()
    rows = [{"text": "the cat " * 60, "label": number % 2} for number in range(4)]
    tiny.write_rows(place / "rows.jsonl", rows)
    content = tiny.settings(place, "rows", trainer_type="CLASSIFY", max_steps=1)
    content["model"]["model_name"] = str(place / kind)
    tiny.write_yaml(place / "run.yaml", content)
    assert main(["check", "run.yaml"]) == 0
    with caplog.at_level("INFO", logger="trainwright"):
        assert main(["train", "run.yaml", "training.trainer_kwargs.max_length=100"]) == 0
    assert "max_length is 64 and not 100: the model has no more positions" in caplog.text
    assert "All 4 rows of the training data are longer than max_length=64" in caplog.text


FINE = {"prompt": "the cat", "completion": " sat"}
LATE = {  # what row 40 is, what is set beside, what is said
    "None": ({"prompt": None, "completion": "b"}, {}, "Row 40 has None in 'prompt'. Drop the row or fill it in"),
    "a missing column": ({"prompt": "a"}, {}, "Row 40 has None in 'completion'"),
    "a number": ({"prompt": "a", "completion": 3}, {}, "Row 40 has 3 in 'completion', where a text is expected"),
    "a judgement": ({**FINE, "label": False}, {}, "Row 40: label is false"),
    "no JSON": ('{"prompt": "a"', {}, "'rows.jsonl' cannot be read: line 41 is not JSON"),
    "beyond what is read": ({"prompt": None}, {"data.train.datasets.0.sample_count": "40"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
def test_check_looks_at_every_row_of_a_file(place, name, capsys):
    late, beside, said = LATE[name]
    lines = [json.dumps(FINE)] * 40 + [late if isinstance(late, str) else json.dumps(late), json.dumps(FINE)]
    write(place, "rows.jsonl", "\n".join(lines) + "\n")
    code = main(["check", "run.yaml", *(f"{key}={value}" for key, value in beside.items())])
    shown = capsys.readouterr().err
    assert (code == 0, "run.yaml:6: " in shown) == (said is None, said is not None)
    assert (said or "") in shown
    if said is not None:
        with pytest.raises(DataError, match=r"(?i)row 40|JSON"):
            built(load_checked(place / "run.yaml").config).train()


def test_a_table_that_was_saved_is_looked_at_whole(place, capsys):
    import datasets

    rows = [FINE] * 40 + [{**FINE, "completion": None}]
    datasets.Dataset.from_list(rows).save_to_disk(str(place / "saved"))
    write(place, "rows.jsonl", FINE)
    assert main(["check", "run.yaml", f"data.train.datasets.0.dataset_name={place / 'saved'}"]) == 2
    assert "Row 40 has None in 'completion'" in capsys.readouterr().err


def test_empty_texts_and_columns_that_nothing_reads_are_told(place, capsys):
    rows = [{**FINE, "id": 1, "history": "x"}] * 20 + [{**FINE, "completion": "", "id": 2, "history": "y"}]
    write(place, "rows.jsonl", "\n".join(map(json.dumps, rows)))
    assert main(["check", "run.yaml"]) == 0
    said = capsys.readouterr().err
    assert "data.train.datasets.0: 1 of 21 rows have nothing in 'completion'." in said
    assert "data.train.datasets.0: nothing reads the columns id, history." in said
    write(place, "rows.jsonl", "\n".join(map(json.dumps, [{"text": "a", "label": 1}, {"text": "b", "label": 0}])))
    assert main(["check", "run.yaml", "training.trainer_type=CLASSIFY"]) == 0
    assert "nothing reads" not in capsys.readouterr().err


def test_keys_of_other_programs_are_told_by_ours(tmp_path, capsys):
    theirs = "base_model: x\nmicro_batch_size: 2\nlearning_rate: 1.0e-4\ndatasets: [{path: a, type: alpaca}]\n"
    (tmp_path / "axolotl.yaml").write_text(theirs)
    assert main(["check", str(tmp_path / "axolotl.yaml")]) == 2
    said = capsys.readouterr().err
    for key, ours in (
        ("base_model", "write model.model_name"), ("micro_batch_size", "write training.per_device_train_batch_size"),
        ("learning_rate", "Did you mean 'training.learning_rate'?"), ("datasets", "write data.train.datasets[]"),
    ):  # fmt: skip
        assert ours in said.partition(f"unknown key {key}\n")[2].split("\n\n")[0]
