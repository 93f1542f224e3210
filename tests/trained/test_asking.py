"""Answers to many prompts and conversations: against transformers' own, and after every cut of a file."""

from __future__ import annotations

import copy
import io
import sys

import pytest
import torch
import transformers

from tests import tiny_language as tiny
from trainwright import ConfigError, DataError
from trainwright.cli.after.chat import printable
from trainwright.cli.after.generate import read
from trainwright.cli.main import main
from trainwright.data.text.named_templates import NAMED_TEMPLATES
from trainwright.generation.sampling import Sampling
from trainwright.trained.asking.conversation import Conversation
from trainwright.trained.asking.generating import Answers, generate, lines_of
from trainwright.trained.asking.prompts import Asker, end_of_answers, prompt_of, up_to_the_answer
from trainwright.trained.asking.writer import writer
from trainwright.trained.folders import find

pytestmark = pytest.mark.slow
GREEDY = Sampling(max_new_tokens=8, temperature=0.0)
DRAWN = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def writing(whole):
    return writer(find(whole), GREEDY, batch_size=2)


@pytest.fixture(scope="module")
def drawing(pissa):
    return writer(find(pissa), DRAWN, batch_size=4)


@pytest.fixture(scope="module")
def prompts():
    return [row["prompt"] for row in tiny.rows_of("completion", 7, seed=3)]


def test_greedy_answers_are_those_of_transformers(writing, whole, prompts, tmp_path):
    assert generate(writing, prompts, tmp_path / "out.jsonl") == 7
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    for line, prompt in zip(lines_of(tmp_path / "out.jsonl"), prompts, strict=True):
        given = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert line["prompt"] == prompt
        assert line["generated"] == tokenizer.decode(made, skip_special_tokens=True)


def test_wherever_a_file_is_cut_no_answer_is_lost_or_repeated(drawing, prompts, tmp_path, monkeypatch):
    file = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Answers, "in_order", lambda self: None)  # as it is while it is written
        generate(drawing, prompts, file, count=2, seed=1)
    whole = file.read_bytes()
    assert len(whole.splitlines()) == 14
    for cut in (0, 1, len(whole) // 3, len(whole.splitlines()[0]) + 1, len(whole) - 1, len(whole)):
        file.write_bytes(whole[:cut])
        generate(drawing, prompts, file, count=2, seed=1)
        assert [(line["row"], line["sample"]) for line in lines_of(file)] == [(n // 2, n % 2) for n in range(14)]
        assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_answers_that_were_made_otherwise_are_kept(writing, prompts, tmp_path):
    file = tmp_path / "out.jsonl"
    generate(writing, prompts, file)
    before = file.read_text()
    with pytest.raises(ConfigError, match="made with another seed. Give another file, or --overwrite"):
        generate(writing, prompts, file, seed=2)
    assert generate(writing, prompts, file) == 0
    assert file.read_text() == before
    assert generate(writing, prompts[:2], file, anew=True) == 2
    (tmp_path / "mine.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="holds what was made by something else"):
        generate(writing, prompts, tmp_path / "mine.jsonl")


def test_a_text_with_a_mark_at_which_lines_could_be_cut_is_one_prompt(writing, tmp_path):
    file, odd = tmp_path / "out.jsonl", "the\u2028cat\x85is\x0bon"
    assert [generate(writing, [odd], file) for _ in range(2)] == [1, 0]
    assert [line["prompt"] for line in lines_of(file)] == [odd]
    (tmp_path / "prompts.txt").write_text(f"{odd}\n\nthe ball\r\n", newline="")
    assert read(None, str(tmp_path / "prompts.txt"), None) == [odd, "the ball"]


def test_prompts_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(DataError, match="gone.txt' cannot be read: No such file"):
        read(None, str(tmp_path / "gone.txt"), None)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="is no text in UTF-8 .invalid continuation byte at byte 3"):
        read(None, str(tmp_path / "latin.txt"), None)


def test_a_prompt_that_leaves_no_room_is_told_before_anything_is_written(writing, tmp_path):
    with pytest.raises(DataError, match="Prompt 1 has .* tokens"):
        generate(writing, ["the cat", "the cat " * 300], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_what_a_row_asks():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert prompt_of({"prompt": "a", "completion": "b"}, 0) == "a"
    assert prompt_of({"messages": turns}, 0) == turns[:1]
    assert prompt_of({"conversations": [{"from": "human", "value": "a"}]}, 0) == turns[:1]
    assert prompt_of({"text": "a"}, 0) == "a"
    with pytest.raises(DataError, match="Row 3 asks nothing: it has the columns question"):
        prompt_of({"question": "a"}, 3)


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        ("{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}", "user: hi\nassistant:"),
        ("{% for one in messages %}{{ '[INST] ' + one.content + ' [/INST]' if one.role == 'user' else "
         "' ' + one.content }}{% endfor %}", "[INST] hi [/INST]"),
        (NAMED_TEMPLATES["chatml"], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
    ],
    ids=["which takes no notice of the prompt's end", "without a header", "as most are"],
)  # fmt: skip
def test_where_the_assistant_begins_is_found_by_any_template(drawing, template, asked):
    tokenizer = copy.copy(drawing.tokenizer)
    tokenizer.chat_template = template
    text = up_to_the_answer(tokenizer, [{"role": "user", "content": "hi"}], {})
    assert text.removeprefix(tokenizer.bos_token or "") == asked


def test_a_conversation_is_asked_by_its_template_and_ends_with_the_turn(drawing):
    tokenizer = drawing.tokenizer
    asker = Asker(tokenizer, system="be brief", as_chat=True)
    text = tokenizer.decode(asker.ids("the cat"))
    assert (
        text == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    )
    ends, stop = end_of_answers(drawing.model, tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<|end|>", "<|im_end|>"]) == ends
    assert stop == ()
    plain = tiny.new_tokenizer()
    assert end_of_answers(None, plain) == ([0], ())
    plain.chat_template = NAMED_TEMPLATES["zephyr"].replace("eos_token", "'</s>'")  # which it has not as one token
    assert end_of_answers(None, plain) == ([0], ("</s>",))


def test_what_is_streamed_is_what_is_written(drawing):
    talk = Conversation(drawing, system="be brief", seed=3)
    pieces = list(talk.say("the cat"))
    [[whole]] = drawing.complete([talk.messages[:2]], [(3, 1)])
    assert "".join(pieces) == drawing.text(whole.ids) == talk.turns[-1]["content"]
    assert [turn["role"] for turn in talk.messages] == ["system", "user", "assistant"]


def test_turns_are_taken_back_answered_again_and_saved(drawing, tmp_path):
    talk = Conversation(drawing, seed=3)
    first = "".join(talk.say("the cat"))
    assert talk.undo() == "the cat"
    assert talk.turns == []
    assert "".join(talk.say("the cat")) != first  # random numbers of its own
    list(talk.say("two dogs"))
    assert len(talk.turns) == 4
    talk.save(tmp_path / "talk.jsonl")
    talk.reset()
    assert talk.undo() is None
    assert [turn["content"] for turn in lines_of(tmp_path / "talk.jsonl")[0]["messages"]][::2] == [
        "the cat",
        "two dogs",
    ]
    with pytest.raises(DataError, match="nothing can be written"):
        list(talk.say("the cat " * 300))
    assert talk.turns == []


def test_an_answer_that_is_stopped_stays_as_far_as_it_was_written(drawing):
    talk = Conversation(drawing, seed=3)
    answer = talk.say("the cat")
    piece = next(answer)
    answer.close()
    assert talk.turns[-1] == {"role": "assistant", "content": piece}


def test_the_commands_of_a_chat(pissa, lora, tmp_path, monkeypatch, capsys):
    said = ["/undo", "the cat", "/regen", "/undo", "/sytem x", "/system be brief", f"/save {tmp_path}/a.jsonl", "/quit"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(said)))
    assert main(["chat", str(pissa), str(pissa / "checkpoint-3"), "--max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert out.count(f"[{pissa}]\n") == out.count(f"[{pissa / 'checkpoint-3'}]\n") == 2
    for told in ("Nothing was asked yet.", "Taken back: the cat", "Did you mean '/system'?", "Nothing was said yet."):
        assert told in out
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\n"))
    assert main(["chat", str(lora), "--max-new-tokens", "4"]) == 0
    assert "no chat template, so that each text is gone on with" in capsys.readouterr().out


def test_the_command_answers_a_file_and_standard_input(whole, pissa, place, tmp_path, monkeypatch, capsys):
    file = tmp_path / "out.jsonl"
    words = ["generate", str(pissa), "--prompts", str(place / "chat.jsonl"), "--limit", "3", "--out", str(file)]
    assert main([*words, "--max-new-tokens", "4"]) == 0
    assert [line["prompt"][-1]["role"] for line in lines_of(file)] == ["user"] * 3
    assert main([*words, "--max-new-tokens", "4"]) == 0
    assert "3 prompts answered (3 were answered before)" in capsys.readouterr().out
    for text in ("the cat\n\ntwo dogs\n", '{"prompt": "the cat"}\n{"prompt": "two dogs"}\n'):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert main(["generate", str(whole), "--out", str(file), "--overwrite", "--max-new-tokens", "4"]) == 0
        assert [line["prompt"] for line in lines_of(file)] == ["the cat", "two dogs"]


def test_what_a_terminal_would_obey_is_not_shown():
    assert printable("a\x1b[31mb\nc\td\x07é") == "a\ufffd[31mb\nc\td\ufffdé"


def test_an_encoder_decoder_is_told(tmp_path):
    config = transformers.T5Config(vocab_size=320, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.new_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="T5ForConditionalGeneration does not go on with a text"):
        writer(find(tmp_path), GREEDY)
