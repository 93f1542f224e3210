"""Named chat templates render what the public documentation of their models shows, letter by letter."""

from __future__ import annotations

import pytest

from tests import tiny_language as tiny
from trainwright import ConfigError
from trainwright.config import ModelParams, TrainingConfig
from trainwright.data.text import chat
from trainwright.data.text.named_templates import NAMED_TEMPLATES, OTHER_NAMES
from trainwright.tasks.language.text import tokenizer_of

MARKS = {"bos_token": "<s>", "eos_token": "</s>"}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# What is shown, by whom: (template, begin and end tokens, messages, whether the assistant is to write, text).
SHOWN = {
    "the model card of zephyr-7b-beta": (
        "zephyr", MARKS,
        [system("You are a friendly chatbot who always responds in the style of a pirate."),
         user("How many helicopters can a human eat in one sitting?")], True,
        "<|system|>\nYou are a friendly chatbot who always responds in the style of a pirate.</s>\n<|user|>\nHow many "
        "helicopters can a human eat in one sitting?</s>\n<|assistant|>\n",
    ),
    "llama.com, a system's message": (
        "llama3-instruct", {"bos_token": "<|begin_of_text|>"},
        [system("You are a helpful AI assistant for travel tips and recommendations"),
         user("What can you help me with?")], True,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful AI assistant for travel tips "
        "and recommendations<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat can you help me with?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama.com, a single message": (
        "llama3-instruct", {"bos_token": "<|begin_of_text|>"}, [user("What is France's capital?")], True,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is France's capital?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Qwen's documentation": (
        "qwen2-instruct", {}, [user("hello, who are you?"), assistant("I am Qwen.")], False,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhello, who are you?<|im_end|>\n"
        "<|im_start|>assistant\nI am Qwen.<|im_end|>\n",
    ),
    "ai.google.dev, a dialogue": (
        "gemma2-it", {"bos_token": "<bos>"},
        [user("knock knock"), assistant("who is there"), user("Gemma"), assistant("Gemma who?")], False,
        "<bos><start_of_turn>user\nknock knock<end_of_turn>\n<start_of_turn>model\nwho is there<end_of_turn>\n"
        "<start_of_turn>user\nGemma<end_of_turn>\n<start_of_turn>model\nGemma who?<end_of_turn>\n",
    ),
    "ai.google.dev, a system's instructions": (
        "gemma2-it", {"bos_token": "<bos>"},
        [system("Only reply like a pirate."), user("What is the answer to life the universe and everything?"),
         assistant("Arrr, 'tis 42,")], False,
        "<bos><start_of_turn>user\nOnly reply like a pirate.\nWhat is the answer to life the universe and everything?"
        "<end_of_turn>\n<start_of_turn>model\nArrr, 'tis 42,<end_of_turn>\n",
    ),
    "ai.google.dev, a question": (
        "gemma2-it", {"bos_token": "<bos>"}, [user("What is Cramer's Rule?")], True,
        "<bos><start_of_turn>user\nWhat is Cramer's Rule?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "OpenAI's ChatML": (
        "chat_ml", {}, [system("You are helpful."), user("How are you")], True,
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHow are you<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "the model card of Phi-3-mini-4k-instruct": (
        "phi3-instruct", MARKS,
        [system("You are a helpful assistant."), user("How to explain Internet for a medieval knight?")], True,
        "<|system|>\nYou are a helpful assistant.<|end|>\n<|user|>\nHow to explain Internet for a medieval knight?"
        "<|end|>\n<|assistant|>\n",
    ),
    "the model card of Mixtral-8x7B-Instruct-v0.1": (
        "mistral-instruct", MARKS,
        [user("Instruction"), assistant("Model answer"), user("Follow-up instruction")], True,
        "<s>[INST] Instruction [/INST] Model answer</s>[INST] Follow-up instruction [/INST]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shown", SHOWN)
def test_a_template_renders_what_its_documentation_shows(shown):
    name, marks, messages, writes, text = SHOWN[shown]
    tokenizer = tiny.new_tokenizer()
    for mark, token in marks.items():
        setattr(tokenizer, mark, token)
    tokenizer.chat_template = chat.template_text(name)
    assert chat.render(tokenizer, messages, prompt=writes) == text


def test_every_name_is_shown():
    assert {OTHER_NAMES.get(one[0], one[0]) for one in SHOWN.values()} == set(NAMED_TEMPLATES) - {"plain"}
    assert set(OTHER_NAMES.values()) <= set(NAMED_TEMPLATES)
    with pytest.raises(ConfigError, match="no known name.*Did you mean 'zephyr'"):
        chat.template_text("zefyr")


@pytest.mark.parametrize("own", [None, "{{ messages[0].content }}"])
def test_auto_is_the_tokenizers_own_or_that_of_its_tokens(tmp_path, own):
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = own
    tokenizer.save_pretrained(tmp_path)
    config = TrainingConfig(model=ModelParams(tokenizer_name=str(tmp_path), chat_template="auto"))
    assert tokenizer_of(config, None).chat_template == (own or NAMED_TEMPLATES["chatml"])
