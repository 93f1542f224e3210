"""Messages of every form are what they say: against transformers' rendering of the plain form."""

from __future__ import annotations

import json

import pytest

from tests import tiny_language as tiny
from tests.data.test_formats import learned, text_of
from trainwright import ConfigError, DataError
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked
from trainwright.config.schema import DatasetParams
from trainwright.data.mixture import read_one
from trainwright.data.sources.formats import canonical
from trainwright.tasks.language.text import load_text

QWEN = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- if m.tool_calls %}{%- for c in m.tool_calls %}"
    '{%- if c.function is defined %}{%- set c = c.function %}{%- endif %}{{- \'<tool_call>\\n{"name": "\' + c.name + '
    "'\", \"arguments\": ' }}{{- c.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{%- else %}"
    "{{- m.content }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
ASKED = {"role": "user", "content": "the weather in Rome and then?"}
ARGUMENTS = {"city": "Rome", "days": [1, 2.5], "unit": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("messages"))


def called(arguments):
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


CALLS = {
    "a mapping": called(ARGUMENTS),
    "JSON": called(json.dumps(ARGUMENTS)),
    "JSON with spaces": called(json.dumps(ARGUMENTS, indent=2)),
    "bare": {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": json.dumps(ARGUMENTS)}]},
    "a function call": {"role": "assistant", "content": "", "function_call": called(json.dumps(ARGUMENTS))
                        ["tool_calls"][0]["function"]},
}  # fmt: skip


@pytest.mark.parametrize("assistant_only", [False, True])
@pytest.mark.parametrize("form", CALLS)
def test_arguments_of_tool_calls_are_what_they_say(place, tmp_path, form, assistant_only):
    rows = [{"messages": [ASKED, CALLS[form]]}, {"messages": [ASKED, called({"other": 1})]}]
    if form == "a mapping":
        rows.append({"messages": [ASKED, called("")]})
    text = text_of(place, rows, tmp_path, {"assistant_only_loss": assistant_only}, model={"chat_template": QWEN})
    plain = text.tokenizer.apply_chat_template([ASKED, called(ARGUMENTS)], tokenize=False)
    assert '"arguments": {"city": "Rome", "days": [1, 2.5], "unit": null}' in plain
    assert learned(text) == (plain.partition("assistant\n")[2] if assistant_only else plain)
    if form == "a mapping":
        assert '"arguments": {}' in learned(text, 2)  # OpenAI writes nothing where there are none


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [[{"type": "text", "text": "the cat "}, {"type": "text", "text": "sat"}], ["the cat ", "sat"],
     [{"type": "input_text", "text": "the cat sat", "image_url": None}], [{"text": "the cat sat"}]],
    ids=["parts", "texts", "OpenAI", "without a type"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["messages", "completion", "preference"])
def test_content_in_parts_is_their_text(place, tmp_path, content, kind):
    def row(said):
        answer = [{"role": "assistant", "content": said}]
        prompt = [ASKED]
        return {"messages": {"messages": prompt + answer}, "completion": {"prompt": prompt, "completion": answer},
                "preference": {"prompt": prompt, "chosen": answer, "rejected": answer}}[kind]  # fmt: skip

    found, wanted = (text_of(place, [row(said)], tmp_path, model={"chat_template": "chatml"}).train[0]
                     for said in (content, "the cat sat"))  # fmt: skip
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in wanted.items()
    }


REFUSED = {
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "has a part of type 'image'"),
    "an address": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                   "has a part of type 'image_url'; only text can be learned from"),
    "a sound": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]}]},
                "has a part of type 'input_audio'"),
    "a mapping": ({"messages": [{"role": "user", "content": {"a": 1}}]}, "has content that is dict; a text, or parts"),
    "a number in a part": ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "part of type"),
    "a column": ({"messages": [ASKED], "images": ["a.png"]}, "Row 7 has 'images', and only text can be learned from"),
    "a column beside text": ({"text": "a", "audio": {"path": "a.wav"}}, "Row 7 has 'audio'"),
    "arguments": ({"messages": [called("{x")]}, "Row 7: the arguments of the call of 'weather' are a text, but not"),
    "a list of arguments": ({"messages": [called("[1]")]}, "are '[1]'; a JSON object is expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_text_is_refused_by_name(name):
    row, message = REFUSED[name]
    with pytest.raises(DataError) as caught:
        canonical(row, 7)
    assert message in str(caught.value)


def test_columns_of_images_that_hold_none_are_no_matter():
    assert canonical({"messages": [ASKED], "images": [], "audio": None}, 0)["messages"] == [ASKED]
    assert "images" in canonical({"input_ids": [1], "images": ["a.png"]}, 0)


def tool(name, properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


@pytest.mark.parametrize("stream", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_tool_calls_of_tables_have_their_own_keys_alone(tmp_path, form, stream):
    """Arrow gives every call the keys of all; what the rows were before is what is right."""
    datasets = pytest.importorskip("datasets")
    said = [{"city": "Rome", "where": {"x": 1}}, {"zone": "UTC", "days": [1, 2]}, {}]
    tools = [tool("a", {"city": {"type": "string"}}), tool("b", {"zone": {"type": "string", "enum": ["UTC"]}})]
    rows = [
        {"messages": [ASKED, called(one)], "tools": [tools[number % 2]], "text": None}
        for number, one in enumerate(said)
    ]
    table, path = datasets.Dataset.from_list(rows), tmp_path / "rows.parquet"
    assert table[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]["zone"] is None
    table.to_parquet(str(path)) if form == "parquet" else table.save_to_disk(str(path))
    found = [canonical(row, 0) for row in read_one(DatasetParams(dataset_name=str(path)), stream)]
    assert [row["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in found] == said
    assert [row["tools"] for row in found] == [row["tools"] for row in rows]


def test_what_sharegpt_calls_calls_and_results_is_the_assistants_and_the_tools(place, tmp_path):
    """LLaMA-Factory's and glaive's turns; they are learned as the assistant's are."""
    called = {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})}
    told = {"from": "observation", "value": "warm"}
    row = {"conversations": [{"from": "human", "value": ASKED["content"]}, called, told, {"from": "gpt", "value": "a"}]}
    found = canonical(row, 0)["messages"]
    assert [one["role"] for one in found] == ["user", "assistant", "tool", "assistant"]
    assert found[1]["tool_calls"] == [{"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]
    text = text_of(place, [row], tmp_path, {"assistant_only_loss": True}, model={"chat_template": QWEN})
    assert '"arguments": {"city": "Rome"' in learned(text)
    assert "warm" not in learned(text)
    several = json.dumps([{"name": "a", "arguments": {}}, {"name": "b", "arguments": "{}"}])
    both = canonical({"messages": [{"role": "function_call", "content": several}]}, 0)["messages"][0]
    assert [one["function"]["name"] for one in both["tool_calls"]] == ["a", "b"]
    plain = canonical({"messages": [{"role": "function_call", "content": "f(1)"}]}, 0)["messages"][0]
    assert plain == {"role": "assistant", "content": "f(1)"}


def test_roles_in_capitals_are_the_roles(place):
    found = canonical({"messages": [{"role": "User", "content": "a"}, {"role": "ASSISTANT", "content": "b"}]}, 0)
    assert [one["role"] for one in found["messages"]] == ["user", "assistant"]
    critic = {"messages": [{"role": "Critic", "content": "a"}]}
    assert canonical(critic, 0)["messages"][0]["role"] == "Critic", "of a template of its own"


NO_MESSAGES = {
    "a text": "hello",
    "pairs": [["a", "b"]],
    "texts": ["a", "b"],
    "a mapping": {"role": "user", "content": "a"},
    "JSON of another thing": "[1, 2]",
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_list_of_messages_is_told(name):
    with pytest.raises(DataError, match="Row 3: 'messages' holds .*; a list of messages with 'role' and 'content'"):
        canonical({"messages": NO_MESSAGES[name]}, 3)


def test_messages_may_be_json_texts_as_in_tables_of_texts(place, tmp_path):
    turns = [ASKED, {"role": "assistant", "content": "warm"}]
    assert canonical({"messages": json.dumps(turns)}, 0)["messages"] == turns
    text = text_of(place, [{"conversations": json.dumps(turns)}], tmp_path, model={"chat_template": QWEN})
    assert learned(text) == text.tokenizer.apply_chat_template(turns, tokenize=False)


JUDGED = {
    "completion": {"prompt": "a", "completion": " b"},
    "messages": {"messages": [ASKED, {"role": "assistant", "content": "warm"}]},
}


@pytest.mark.parametrize("engine", ["SFT", "TRL_SFT"])
@pytest.mark.parametrize("kind", JUDGED)
def test_an_answer_that_is_not_wanted_is_not_learned(kind, engine, place, tmp_path):
    """KTO's rows: the only good ones are those that the first rows, which `check` sees, hold."""
    rows = [{**JUDGED[kind], "label": number < 20} for number in range(21)]
    content = tiny.settings(place, "chat", max_steps=9, trainer_type=engine)
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tiny.write_rows(tmp_path / "judged.jsonl", rows))}]
    content["model"]["chat_template"] = QWEN
    config = load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config
    with pytest.raises(DataError, match="Row 20: label is false: the completion is one that is not wanted"):
        built(config).train()


LOST = {  # what rows hold, the template, and what is said of it
    "calls": (
        {"messages": [{"role": "user", "content": "and then?"}, called({"a": 1})]}, "chatml", "calls of tools",
    ),
    "tools": ({"messages": [ASKED], "tools": [{"type": "function", "function": {"name": "f"}}]}, "chatml", "tools"),
    "a later system": (
        {"messages": [ASKED, {"role": "assistant", "content": "a"}, {"role": "system", "content": "Be short."}]},
        "gemma2-it", "what a message of role system says",
    ),
    "calls that are written": ({"messages": [ASKED, called({"a": 1})]}, QWEN, None),
    "thoughts": (
        {"messages": [ASKED, {"role": "assistant", "content": "warm", "reasoning_content": "July"}]}, "chatml",
        "'reasoning_content' of an answer",
    ),
    "nothing": ({"prompt": [ASKED], "completion": [{"role": "assistant", "content": " a "}]}, "llama3-instruct", None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_what_a_template_leaves_out_is_said(place, tmp_path, name):
    row, template, said = LOST[name]
    notes = text_of(place, [row], tmp_path, model={"chat_template": template}).notes
    found = [note for note in notes if "leaves out" in note]
    wanted = [f"The chat template leaves out {said}. Give model.chat_template one that writes that too."]
    assert found == ([] if said is None else wanted)


def test_templates_of_turns_for_a_collator_change_nothing_for_the_chat_template_says_them(place, tmp_path):
    rows = [{"messages": [ASKED, {"role": "assistant", "content": "warm"}]}] * 2
    given = {"response_template": "<|im_start|>assistant\n", "instruction_template": "<|im_start|>user\n"}
    content = tiny.settings(place, "chat")
    content["model"]["chat_template"] = "chatml"
    datasets = [{"dataset_name": str(tiny.write_rows(tmp_path / "rows.jsonl", rows))}]
    found = []
    for kwargs in ({}, given):
        content["data"]["train"] = {"datasets": datasets, "collator_name": "text_completions_only_with_padding",
                                    "collator_kwargs": kwargs}  # fmt: skip
        found.append(learned(load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)))
    assert found[0] == found[1]
    content["data"]["train"]["collator_kwargs"] = {"mlm": True}
    with pytest.raises(ConfigError, match="response_template and instruction_template alone"):
        load_checked(tiny.write_yaml(tmp_path / "run.yaml", content))
