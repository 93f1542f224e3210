"""Datasets by their registered names and by their columns: rows with the real columns, and the messages by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import installed
from tests import tiny_language as tiny
from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.config.reading.read import load, load_checked, options_of
from trainwright.config.schema import DatasetParams, DatasetSplitParams
from trainwright.data import mixture
from trainwright.data.sources.registered import REGISTERED, find
from trainwright.tasks.language.text import load_text

QUESTION, ANSWER = "What is two and two?", "Four."
TASK = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
CHAT = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
SHARE = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def field(text):
    """A field of Argilla's: values, and who gave them."""
    return {"user_id": [None], "value": [text], "status": ["submitted"]}


ALPACA = {"instruction": "Add.", "input": "two and two", "output": ANSWER}
DOLLY = {
    "category": "qa", "original-instruction": "Old?", "original-context": "", "original-response": "Older.",
    "new-instruction": field("Add."), "new-context": field("Two and two."), "new-response": field(ANSWER),
}  # fmt: skip
CHATQA = {"document": "Two and two are four.", "messages": said(("user", QUESTION)), "answers": [ANSWER]}
DOCUMENT = (
    ("system", "Only use the information from the user provided context to answer the question."),
    ("user", "<context>Two and two are four.</context>"),
    ("user", QUESTION), ("assistant", ANSWER),
)  # fmt: skip
# A name, what else the file says of it, a row with the dataset's real columns, and what it is here.
ROWS = {
    "Alpaca": (
        "yahma/alpaca-cleaned", {}, ALPACA,
        said(("system", f"{TASK}, paired with an input that provides further context. {REQUEST}"),
             ("user", "Add.\n\n### Input:\ntwo and two"), ("assistant", ANSWER)),
    ),
    "Alpaca without an input": (
        "tatsu-lab/alpaca", {}, {"instruction": "Add.", "input": "", "output": ANSWER, "text": "all of it"},
        said(("system", f"{TASK}. {REQUEST}"), ("user", "Add."), ("assistant", ANSWER)),
    ),
    "Alpaca without its prompt": (
        "uiuc-convai/CoALM-IT", {"dataset_kwargs": {"include_system_prompt": False}}, {**ALPACA, "input": ""},
        said(("user", "Add."), ("assistant", ANSWER)),
    ),
    "Alpaca in a file": ("text_sft_jsonl", {}, ALPACA, said(("user", "Add.\n\ntwo and two"), ("assistant", ANSWER))),
    "Aya": (
        "CohereForAI/aya_dataset", {},
        {"inputs": QUESTION, "targets": ANSWER, "language": "English", "language_code": "eng", "user_id": "x"}, CHAT,
    ),
    "Dolly": (
        "argilla/databricks-dolly-15k-curated-en", {}, DOLLY,
        said(("user", "Add.\n\nContext: Two and two."), ("assistant", ANSWER)),
    ),
    "Dolly as it was": (
        "argilla/databricks-dolly-15k-curated-en", {"dataset_kwargs": {"use_new_fields": False}}, DOLLY,
        said(("user", "Old?"), ("assistant", "Older.")),
    ),
    "Dolly's first": (
        "databricks/databricks-dolly-15k", {},
        {"instruction": "Add.", "context": "Two and two.", "response": ANSWER, "category": "qa"},
        said(("user", "Add.\n\nTwo and two."), ("assistant", ANSWER)),
    ),
    "Magpie": (
        "argilla/magpie-ultra-v0.1", {},
        {"instruction": QUESTION, "response": ANSWER, "intent": "x", "score_difference": 1.5}, CHAT,
    ),
    "OpenO1": ("O1-OPEN/OpenO1-SFT", {}, {"instruction": QUESTION, "output": ANSWER}, CHAT),
    "OpenHermes": ("teknium/OpenHermes-2.5", {}, {"conversations": SHARE, "source": "x", "category": None}, CHAT),
    "UltraChat": ("HuggingFaceH4/ultrachat_200k", {}, {"prompt": QUESTION, "prompt_id": "1", "messages": CHAT}, CHAT),
    "Tulu": ("allenai/tulu-3-sft-mixture", {}, {"id": "1", "messages": CHAT, "source": "x"}, CHAT),
    "WildChat": (
        "allenai/WildChat-1M", {}, {"conversation_hash": "x", "model": "m", "conversation": CHAT, "turn": 1}, CHAT
    ),
    "ChatQA": ("nvidia/ChatQA-Training-Data", {}, CHATQA, said(*DOCUMENT)),
    "ChatQA, squad": (
        "nvidia/ChatQA-Training-Data", {"subset": "squad2.0"},
        {**CHATQA, "answers": [{"text": ANSWER, "answer_start": 3}]},
        said(("system", "Answer the following question with a short span."), *DOCUMENT),
    ),
    "ChatQA, narrativeqa": (
        "nvidia/ChatQA-Training-Data", {"subset": "narrativeqa"}, {**CHATQA, "answers": [[ANSWER, "4"]]},
        said(("system", "Answer the following question with a short span."), *DOCUMENT),
    ),
    "ChatQA without a document": (
        "nvidia/ChatQA-Training-Data", {"subset": "synthetic_convqa"}, {"messages": CHAT[:1], "answers": [ANSWER]},
        said(("system", "Please give a full and complete answer for the question."), ("user", QUESTION),
             ("assistant", ANSWER)),
    ),
    "two columns that are named": (
        "PromptResponseDataset", {"dataset_kwargs": {"prompt_column": "ask", "response_column": "say"}},
        {"ask": QUESTION, "say": ANSWER}, CHAT,
    ),
    "a column that is named": (
        "HuggingFaceDataset", {"dataset_kwargs": {"hf_dataset_path": "a/b", "messages_column": "talk"}},
        {"talk": CHAT}, CHAT,
    ),
    "without the last answer": (
        "HuggingFaceDataset",
        {"dataset_kwargs": {"messages_column": "messages", "exclude_final_assistant_message": True}},
        {"messages": CHAT}, CHAT[:1],
    ),
    "Oumi's conversation": ("text_sft_jsonl", {}, {"conversation": {"messages": CHAT}}, CHAT),
}  # fmt: skip


def messages_of(folder, name, more, row):
    """The messages of a row as it is read under a name."""
    tiny.write_rows(folder / "rows.jsonl", [row, row])
    one = DatasetParams(dataset_name=name, dataset_path=str(folder / "rows.jsonl"), **more)
    (rows,) = mixture.read_parts(DatasetSplitParams([one]), 0)
    made = rows[1]
    found = made["messages"] if "messages" in made else made["conversations"]
    roles = {"human": "user", "gpt": "assistant"}
    return [{"role": roles.get(t["from"]), "content": t["value"]} if "from" in t else dict(t) for t in found]


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_a_registered_dataset_is_these_messages(tmp_path, case):
    name, more, row, expected = ROWS[case]
    assert messages_of(tmp_path, name, more, row) == expected


# Alpaca's columns without any key, and columns that are told.
OWN = {
    "Alpaca": ({}, ALPACA, said(("user", "Add.\n\ntwo and two"), ("assistant", ANSWER))),
    "Alpaca with a system": (
        {}, {"instruction": QUESTION, "output": ANSWER, "system": "Be short."},
        said(("system", "Be short."), ("user", QUESTION), ("assistant", ANSWER)),
    ),
    "Alpaca with a history": (
        {}, {"instruction": QUESTION, "input": "", "output": ANSWER, "history": [["Hello.", "Good day."]]},
        said(("user", "Hello."), ("assistant", "Good day."), ("user", QUESTION), ("assistant", ANSWER)),
    ),
    "Alpaca with a history of messages": (
        {}, {"instruction": QUESTION, "input": "", "output": ANSWER, "history": CHAT},
        [*CHAT, *said(("user", QUESTION), ("assistant", ANSWER))],
    ),
    "ShareGPT": ({}, {"id": "1", "conversations": SHARE}, CHAT),
    "ShareGPT with a system": (
        {}, {"conversations": SHARE, "system": "Be short."},
        [{"from": "system", "value": "Be short."}, *SHARE],
    ),
    "messages with a system": (
        {}, {"messages": CHAT, "system": "Be short."},
        said(("system", "Be short."), ("user", QUESTION), ("assistant", ANSWER)),
    ),
    "messages with a system that is said already": ({}, {"messages": [*said(("system", "x")), *CHAT], "system": "y"},
                                                    [*said(("system", "x")), *CHAT]),
    "messages with an empty system": ({}, {"messages": CHAT, "system": ""}, CHAT),
    "Oumi's": ({}, {"conversation": {"messages": CHAT}}, CHAT),
    "told to be Alpaca's": (
        {"column_map": {"task": "instruction", "result": "output"}}, {"task": QUESTION, "result": ANSWER}, CHAT
    ),
    "told to be messages": ({"column_map": {"talk": "messages"}}, {"talk": CHAT}, CHAT),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", OWN)
def test_a_file_of_ones_own_is_known_by_its_columns(tmp_path, case, stream):
    more, row, expected = OWN[case]
    path = tiny.write_rows(tmp_path / "rows.jsonl", [row])
    (rows,) = mixture.read_parts(DatasetSplitParams([DatasetParams(str(path), **more)], stream=stream), 0)
    made = next(iter(rows))
    found = [dict(turn) for turn in made.get("messages") or made["conversations"]]
    assert found in (expected, SHARE)
    assert "system" not in made


def test_a_prompt_and_a_completion_under_other_names(tmp_path):
    path = tiny.write_rows(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}])
    told = {"instruction": "prompt", "output": "completion"}
    (rows,) = mixture.read_parts(DatasetSplitParams([DatasetParams(str(path), column_map=told)]), 0)
    assert rows[0] == {"prompt": "a", "completion": "b"}


ASKED, SAID, WORSE = CHAT[0], CHAT[1], {"role": "assistant", "content": "Five."}
TOLD = {"role": "system", "content": "Be short."}
COMPARED = {  # columns of preferences of one's own, and the prompt
    "a question": ({"question": QUESTION, "chosen": ANSWER, "rejected": "Five."}, [ASKED]),
    "a question and a system": (
        {"system": "Be short.", "question": QUESTION, "chosen": ANSWER, "rejected": "Five."}, [TOLD, ASKED],
    ),
    "Alpaca's": (
        {"instruction": "Add.", "input": "two and two", "chosen": ANSWER, "rejected": "Five."},
        said(("user", "Add.\n\ntwo and two")),
    ),
    "ShareGPT's, with a turn for an answer": (
        {"conversations": SHARE[:1], "chosen": SHARE[1], "rejected": {"from": "gpt", "value": "Five."}}, [ASKED],
    ),
    "a prompt and a system": (
        {"system": "Be short.", "prompt": QUESTION, "chosen": ANSWER, "rejected": "Five."}, [TOLD, ASKED],
    ),
    "a prompt of turns and a system": (
        {"system": "Be short.", "prompt": [ASKED], "chosen": [SAID], "rejected": [WORSE]}, [TOLD, ASKED],
    ),
    "a question that is in the answers": ({"question": QUESTION, "chosen": CHAT, "rejected": [ASKED, WORSE]}, [ASKED]),
    "a prompt and one turn": ({"prompt": [ASKED], "chosen": SAID, "rejected": WORSE}, [ASKED]),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPARED)
def test_what_two_answers_are_to_is_never_left_out(tmp_path, case):
    """A column that holds it is the prompt, by any of the names that people give it."""
    row, prompt = COMPARED[case]
    place = tiny.make_place(tmp_path)
    tiny.write_rows(tmp_path / "rows.jsonl", [row] * 2)
    content = tiny.settings(place, "preference", trainer_type="DPO")
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "rows.jsonl")}]
    content["model"]["chat_template"] = "chatml"
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    made = {name: text.tokenizer.decode(text.train[0][f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")}
    wanted = {
        "prompt": text.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True),
        "chosen": f"{ANSWER}<|im_end|>\n", "rejected": "Five.<|im_end|>\n",
    }  # fmt: skip
    assert made == wanted


def test_a_prompt_and_a_completion_with_a_system(tmp_path):
    row = {"system": "Be short.", "prompt": QUESTION, "completion": ANSWER}
    path = tiny.write_rows(tmp_path / "rows.jsonl", [row])
    (rows,) = mixture.read_parts(DatasetSplitParams([DatasetParams(str(path))]), 0)
    assert rows[0] == {"prompt": [TOLD, ASKED], "completion": ANSWER}


@pytest.mark.parametrize("stream", [False, True])
def test_two_columns_that_have_each_others_names(tmp_path, stream):
    path = tiny.write_rows(tmp_path / "rows.jsonl", [{"prompt": "b", "completion": "a"}])
    told = {"prompt": "completion", "completion": "prompt"}
    (rows,) = mixture.read_parts(DatasetSplitParams([DatasetParams(str(path), column_map=told)], stream=stream), 0)
    assert next(iter(rows)) == {"prompt": "a", "completion": "b"}


HH = "\n\nHuman: What is it?\n\nA word?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant:"


def test_preferences_by_their_names(tmp_path):
    path = tiny.write_rows(tmp_path / "hh.jsonl", [{"chosen": f"{HH} This.", "rejected": f"{HH} None."}] * 2)
    one = DatasetParams("Anthropic/hh-rlhf", str(path))
    (rows,) = mixture.read_parts(DatasetSplitParams([one]), 0)
    assert {name: [dict(turn) for turn in turns] for name, turns in rows[1].items()} == {
        "prompt": said(("user", "What is it?\n\nA word?"), ("assistant", "Yes."), ("user", "Which?")),
        "chosen": said(("assistant", "This.")),
        "rejected": said(("assistant", "None.")),
    }


def test_dialogues_that_begin_with_other_questions_are_no_preference(tmp_path):
    row = {"chosen": f"{HH} This.", "rejected": f"{HH.replace('What', 'Who')} None."}
    path = tiny.write_rows(tmp_path / "hh.jsonl", [row] * 2)
    with pytest.raises(DataError, match="'chosen' and 'rejected' begin with no turn alike"):
        mixture.read_parts(DatasetSplitParams([DatasetParams("Anthropic/hh-rlhf", str(path))]), 0)


PAIR = {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "Five."}]}
PAIRS = {
    "mlabonne/orpo-dpo-mix-40k": {"source": "x", **PAIR, "prompt": QUESTION, "question": QUESTION},
    "HuggingFaceH4/ultrafeedback_binarized": {"prompt": QUESTION, "prompt_id": "1", **PAIR, "score_chosen": 7.0},
    "text_dpo_jsonl": {"prompt": "a", "chosen": " b", "rejected": " c"},
    "debug_dpo": None,
}


@pytest.mark.parametrize("name", PAIRS)
def test_preferences_train(tmp_path, name):
    place = tiny.make_place(tmp_path)
    content = tiny.settings(place, "preference", trainer_type="DPO", max_steps=2)
    one = {"dataset_name": name}
    if PAIRS[name] is not None:
        one["dataset_path"] = str(tiny.write_rows(tmp_path / "rows.jsonl", [PAIRS[name]] * 4))
    content["data"]["train"]["datasets"] = [one]
    content["model"]["chat_template"] = "chatml"
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    answers = [text.tokenizer.decode(text.train[0][f"{kind}_ids"]) for kind in ("chosen", "rejected")]
    if name in ("mlabonne/orpo-dpo-mix-40k", "HuggingFaceH4/ultrafeedback_binarized"):
        assert [ANSWER in answers[0], "Five." in answers[1]] == [True, True]
        prompt = text.tokenizer.decode(text.train[0]["prompt_ids"])
        assert prompt == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert main(["train", str(tmp_path / "run.yaml")]) == 0


@pytest.mark.parametrize("name", ["debug_sft", "debug_pretraining"])
def test_rows_that_are_made(tmp_path, name):
    place = tiny.make_place(tmp_path)
    content = tiny.settings(place, "text", max_steps=1)
    content["data"]["train"]["datasets"] = [{"dataset_name": name, "dataset_kwargs": {"dataset_size": 7}}]
    content["model"]["chat_template"] = "chatml"
    assert len(load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config).train) == 7


@pytest.mark.parametrize(
    ("name", "column"), [("allenai/c4", "text"), ("togethercomputer/RedPajama-Data-V2", "raw_content")]
)
def test_texts_are_one_stream_of_tokens_cut_into_rows_of_seq_length(tmp_path, name, column):
    place = tiny.make_place(tmp_path)
    rows = tiny.rows_of("text", 12)
    path = tiny.write_rows(tmp_path / "rows.jsonl", [{column: row["text"], "url": "x"} for row in rows])
    content = tiny.settings(place, "text", trainer_type="PRETRAIN")
    kwargs = {"seq_length": 16, "skip_last": False}
    content["data"]["train"]["datasets"] = [{"dataset_name": name, "dataset_path": str(path), "dataset_kwargs": kwargs}]
    content["model"]["model_max_length"] = 512
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    tokenizer = tiny.new_tokenizer()
    stream = [token for row in rows for token in tokenizer(row["text"] + "<|end|>")["input_ids"]]
    made = [text.train[number]["input_ids"].tolist() for number in range(len(text.train))]
    assert made == [stream[start : start + 16] for start in range(0, len(stream), 16)]


def test_assistant_only_of_a_dataset_is_that_of_the_run(tmp_path):
    content = tiny.settings(tmp_path, "chat", trainer_type="SFT")
    content["data"]["train"]["datasets"] = [{"dataset_name": "debug_sft", "dataset_kwargs": {"assistant_only": True}}]
    config = load(tiny.write_yaml(tmp_path / "run.yaml", content)).config
    from trainwright.config.options import DPOOptions, SFTOptions

    assert options_of(config, SFTOptions)["assistant_only_loss"] is True
    assert "assistant_only_loss" not in options_of(config, DPOOptions)


@installed.true_mean
def test_trl_reads_the_same_messages(tmp_path):
    """Losses of two steps on Alpaca by its name: ours, and TRL's on the rows that it tokenises itself."""
    pytest.importorskip("trl", reason="trl is not installed")
    from trainwright.config.composition import build

    place, losses = tiny.make_place(tmp_path), {}
    rows = [
        {"instruction": row["prompt"], "input": "", "output": row["completion"]}
        for row in tiny.rows_of("completion", 8)
    ]
    path = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    for engine in ("SFT", "TRL_SFT"):
        content = tiny.settings(place, "text", trainer_type=engine, max_steps=2, lr_scheduler_type="constant")
        content["data"]["train"]["datasets"] = [{"dataset_name": "yahma/alpaca-cleaned", "dataset_path": str(path)}]
        content["model"]["chat_template"] = "chatml"
        trainer = build(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config).trainer
        trainer.train()
        losses[engine] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses["SFT"] == pytest.approx(losses["TRL_SFT"], abs=2e-5)  # float32, in another order
    assert len(losses["SFT"]) == 2


HEAD = """model: {model_name: llama, load_pretrained_weights: false, tokenizer_name: x, model_max_length: 64}
training: {trainer_type: SFT, max_steps: 1}
data:
  train:
    datasets:
"""
MISTAKES = {
    "- {dataset_name: yahma/alpaca-cleaned, dataset_kwargs: {include_sistem_prompt: false}}":
        ":6: unknown key data.train.datasets.0.dataset_kwargs.include_sistem_prompt",
    "- {dataset_name: Yahma/Alpaca-Cleaned, dataset_kwargs: {include_system_prompt: perhaps}}":
        ":6: data.train.datasets.0.dataset_kwargs.include_system_prompt: 'perhaps' is a text, but true or false",
    "- {dataset_name: allenai/c4, dataset_kwargs: {seq_length: long}}": "seq_length: 'long' is a text, but a whole",
    "- {dataset_name: allenai/c4, dataset_kwargs: {seq_length: 128}}": "seq_length 128 is more than model.model_max",
    "- {dataset_name: allenai/c4, dataset_kwargs: {append_concat_token: false}}": "append_concat_token is not suppo",
    "- {dataset_name: text_sft_jsonl}": "text_sft_jsonl' is a format, so dataset_path must say where the data is",
    "- {dataset_name: text_dpo_jsonl}": "text_dpo_jsonl' is a format, so dataset_path must say where the data is",
    "- {dataset_name: HuggingFaceDataset}": "HuggingFaceDataset needs dataset_kwargs.hf_dataset_path",
    "- {dataset_name: debug_sftt}": "there is no dataset 'debug_sftt'",
    "- {dataset_name: a/b, column_map: {ask: promt}}": "column_map: nothing is learned from a column 'promt'",
    "- {dataset_name: a/b, column_map: {ask: prompt, q: prompt}}": "column_map: 'ask' is called 'prompt' already",
    "- {dataset_name: a/b, column_map: {ask: ''}}": "column_map: nothing is learned from a column ''",
    "- {dataset_name: a/b, column_map: {ask: null}}": "column_map: nothing is learned from a column None",
    "- {dataset_name: a/b, column_map: {ask: [prompt]}}": "column_map: nothing is learned from a column ['prompt']",
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_told_with_file_and_line(tmp_path, line):
    (tmp_path / "run.yaml").write_text(f"{HEAD}      {line}\n")
    with pytest.raises(ConfigError) as error:
        load_checked(tmp_path / "run.yaml")
    assert MISTAKES[line] in str(error.value)
    assert "run.yaml:6:" in str(error.value)


def test_settings_that_change_nothing_are_said(tmp_path, capsys):
    line = "- {dataset_name: allenai/tulu-3-sft-mixture, dataset_kwargs: {return_tensors: true, task: sft}}"
    (tmp_path / "run.yaml").write_text(f"{HEAD}      {line}\n")
    load_checked(tmp_path / "run.yaml")
    said = capsys.readouterr().err
    assert "run.yaml:6: data.train.datasets.0.dataset_kwargs.return_tensors has no effect: rows become tokens" in said
    assert "dataset_kwargs.task has no effect" in said


@pytest.mark.parametrize(
    ("text", "words"), [("\n\n", "has no rows"), ('{"text": \n', "first row of .* cannot be read")]
)
def test_a_stream_without_a_first_row_is_named(tmp_path, text, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=f"rows.jsonl.*{words}|{words}"):
        mixture.read_parts(DatasetSplitParams([DatasetParams(str(path))], stream=True), 0)


def test_cells_that_are_no_texts_are_named(tmp_path):
    """Never learned as Python would print them."""
    good = {"instruction": "a", "output": "b"}
    for column, value, words in (
        ("output", ["b"], "'output' holds a list, .'b'., where a text is expected"),
        ("output", {"b": 1}, "'output' holds a dict"),
        ("input", ["b"], "'input' holds a list"),
        ("system", ["b"], "'system' holds a list"),
        ("history", ["hi", "ok"], "'history' is .'hi', 'ok'.; pairs of a question and its answer, or messages, are"),
        ("history", [["a", "b", "c"]], "pairs of a question"),
        ("history", [["a", None]], "None in 'answer'"),
        ("history", "hi", "pairs of a question"),
    ):
        path = tiny.write_rows(tmp_path / "rows.jsonl", [{**good, column: value}])
        with pytest.raises(DataError, match=f"Row 0 of '{path}': .*{words}"):
            mixture.read_parts(DatasetSplitParams([DatasetParams(str(path))]), 0)
    path = tiny.write_rows(tmp_path / "rows.jsonl", [{**good, "output": 3}])
    (rows,) = mixture.read_parts(DatasetSplitParams([DatasetParams(str(path))]), 0)
    assert rows[0]["messages"][-1]["content"] == "3"


def test_rows_that_are_not_what_their_dataset_has_are_named(tmp_path):
    for row, words in (
        ({"instruction": "a", "input": "", "output": None}, "None in 'output'"),
        ({"prompt": "a", "output": "b"}, "no column 'instruction'; it has prompt, output"),
    ):
        path = tiny.write_rows(tmp_path / "rows.jsonl", [row, {**row, "x": 1}])
        with pytest.raises(DataError, match=f"Row 0 of '{path}': {words}"):
            mixture.read_parts(DatasetSplitParams([DatasetParams("yahma/alpaca-cleaned", str(path))]), 0)
    with pytest.raises(DataError, match="has no column 'ask'; its columns are prompt, output, x. Look at column_map"):
        mixture.read_parts(DatasetSplitParams([DatasetParams(str(path), column_map={"ask": "prompt"})]), 0)
    with pytest.raises(DataError, match="has a column 'prompt' already"):
        mixture.read_parts(DatasetSplitParams([DatasetParams(str(path), column_map={"output": "prompt"})]), 0)


def test_a_file_of_ones_own_is_no_registered_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("HuggingFaceFW/fineweb-mine").mkdir(parents=True)
    Path("allenai/c4").mkdir(parents=True)
    assert find("allenai/c4", None) is REGISTERED["allenai/c4"]  # a copy of it
    assert find("./allenai/c4", None) is None
    assert find("HuggingFaceFW/fineweb-edu", None) is REGISTERED["HuggingFaceFW/fineweb*"]
    assert find("HuggingFaceFW/fineweb-mine", None) is None
    assert find("HuggingFaceFW/fineweb-mine", "rows.jsonl") is REGISTERED["HuggingFaceFW/fineweb*"]
    assert find("somebody/else", None) is None


def test_a_dataset_of_the_hub_is_asked_for_by_its_name_part_and_split(monkeypatch):
    import datasets

    asked = {}
    rows = datasets.Dataset.from_list([{"text": "one"}])
    monkeypatch.setattr(mixture, "ask_at_once", lambda name: "")
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **given: asked.update(given, names=names) or rows)
    one = DatasetParams(dataset_name="somebody/else", subset="small", split="test", dataset_kwargs={"revision": "v1"})
    assert mixture.read(DatasetSplitParams(datasets=[one]), 0)["text"] == ["one"]
    assert asked["names"] == ("somebody/else", "small")
    assert (asked["split"], asked["streaming"], asked["revision"]) == ("test", False, "v1")
