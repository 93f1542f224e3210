"""What `check` accepts can be trained: it looks at the first rows of data that lie here."""

from __future__ import annotations

import json

import pytest

from tests.installed import with_trl
from tests.language import tiny_language as tiny
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
