"""Turns of long conversations are found by a few renderings; the reference asks the template for every turn alone."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from tests import tiny_language as tiny
from trainwright.data.sources.formats import Format
from trainwright.data.text import chat, turns
from trainwright.data.text.tokenize import TextRules
from trainwright.errors import DataError

STRIPS = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1] | trim }}{% else %}{{ m['content'] | trim }}{% endif %}{{ '<end>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
LAST = (  # the last turn, and every third, are written in another way
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if loop.last %}{{ '(last)' }}{% endif %}{{ m['content'] }}"
    "{% if loop.index0 % 3 == 0 %}{{ '<third>' }}{% endif %}{{ '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
PAIRS = (  # a question and its answer are one line, and the number of lines stands first
    "{{ messages | length }}{% for m in messages %}{{ '\n' if m['role'] == 'user' else ' -> ' }}{{ m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' -> ' }}{% endif %}"
)
READS = (  # looks into what is said
    "{% for m in messages %}{{ '<long>' if m['content'] | length > 20 else '<short>' }}{{ m['content'] }}{{ '<end>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<short>' }}{% endif %}"
)
OWN = {**chat.NAMED_TEMPLATES, "strips": STRIPS, "last": LAST, "pairs": PAIRS, "reads": READS}


def of_trl(name):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def talk(kind, pairs=7):
    rng = random.Random(kind)
    made = [] if kind != "with a system prompt" else [{"role": "system", "content": "be good"}]
    for number in range(pairs):
        question, answer = tiny.sentence(rng, 2, 6), tiny.sentence(rng, 2, 6)
        if kind == "repeated":
            question, answer = "the cat", "the cat"
        elif kind == "with spaces":
            question, answer = f" {question}\n", f"\n\n{answer} " if number % 2 else f"{answer}\n"
        elif kind == "with thoughts":
            answer = f"<think>\n{tiny.sentence(rng, 1, 3)}\n</think>\n\n{answer}" if number % 3 else answer
        elif kind == "with empty ones" and number in (2, 3):
            answer = ""
        made += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if kind == "with thoughts apart":
            made[-1]["reasoning_content"] = tiny.sentence(rng, 1, 3)
        if kind == "with tools" and number % 2:
            call = {"type": "function", "function": {"name": "find", "arguments": {"what": question}}}
            made[-1:] = [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "name": "find", "content": answer},
                {"role": "assistant", "content": question},
            ]
    return made


TOOLS = [{"type": "function", "function": {"name": "find", "description": "finds", "parameters": {
    "type": "object", "properties": {"what": {"type": "string"}}}}}]  # fmt: skip
TALKS = [
    "plain", "with a system prompt", "repeated", "with spaces", "with thoughts", "with empty ones",
    "with thoughts apart", "with tools",
]  # fmt: skip
FAMILIES = [
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "diffusion_gemma", "gemma", "gemma3", "gemma4_v5",
    "glm4moe", "gptoss", "idefics3", "lfm2", "lfm2_v2", "llama3", "llama3_1", "llama3_2", "llava_next", "muse_glimmer",
    "nemotron_3_nano", "nemotron_3_5_lightning", "phi3", "phi3_5", "qwen2_5", "qwen2_5_vl", "qwen3", "qwen3_5_think",
    "qwen3_5_nothink", "qwen3_6", "qwen3_8", "qwen3_instruct_2507", "qwen3_vl", "smolvlm",
]  # fmt: skip


def with_template(text):
    tokenizer = tiny.new_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = text
    return tokenizer


def outcome(make):
    try:
        return make()
    except (DataError, TypeError) as error:  # deepseekv3 takes arguments of calls as texts alone
        return f"The chat template refuses: {error}"


def compared(template, kind):
    """Whether there was anything to compare: some templates refuse some conversations."""
    tokenizer, messages = with_template(template), talk(kind)
    given = {"tools": TOOLS if kind == "with tools" else None}
    text = outcome(lambda: chat.render(tokenizer, messages, **given))
    if text.startswith("The chat template refuses"):
        return False
    answers = turns.assistant_turns(messages)
    for wanted in (answers, list(range(1, len(messages)))):
        one_by_one = partial(turns._span, tokenizer, messages, text=text, settings=given)
        expected = outcome(lambda: [one_by_one(number=n) for n in wanted])  # noqa: B023  called at once
        assert outcome(lambda: turns.spans_of(tokenizer, messages, text, wanted, **given)) == expected  # noqa: B023
    return True


@pytest.mark.parametrize("name", OWN)
def test_spans_are_those_of_asking_for_every_turn(name):
    assert all(compared(OWN[name], kind) for kind in TALKS)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_spans_of_known_templates_are_those_of_asking_for_every_turn(family):
    assert sum(compared(of_trl(family), kind) for kind in TALKS) > 2


@pytest.mark.parametrize("name", ["chatml", "plain", "strips", "llama3", "gemma3", "qwen3", "phi3", "qwen3_5_nothink"])
def test_the_renderings_do_not_grow_with_the_turns(monkeypatch, name):
    """Nor do the messages in a rendering count: it is their sum that was the square of the turns."""
    tokenizer, rendered, render = with_template(OWN.get(name) or of_trl(name)), [], turns.render
    monkeypatch.setattr(
        turns, "render", lambda *given, **named: rendered.append(len(given[1])) or render(*given, **named)
    )
    for pairs in (10, 40):
        messages = talk("plain", pairs)
        rendered.clear()
        spans = turns.spans_of(tokenizer, messages, render(tokenizer, messages), turns.assistant_turns(messages))
        assert len(spans) == pairs
        assert len(rendered) <= 15
        assert sum(rendered) <= 15 * len(messages)


def test_what_is_learned_of_muted_turns_is_what_it_was(monkeypatch):
    tokenizer = with_template(chat.NAMED_TEMPLATES["chatml"])
    messages = [{**one, "weight": 0} if number % 5 == 1 else one for number, one in enumerate(talk("plain"))]
    for settings in ({}, {"assistant_only": True}):
        rules = TextRules(tokenizer, Format.MESSAGES, **settings)
        found = rules.row({"messages": messages}, 0)
        monkeypatch.setattr(turns, "_FEW", 10**6)
        assert rules.row({"messages": messages}, 0) == found
        monkeypatch.undo()
        learned = tokenizer.decode([label for label in found["labels"] if label != -100])
        assert all((one["content"] in learned) == (one.get("weight") != 0 and (
            one["role"] == "assistant" or not settings)) for one in messages)  # fmt: skip
