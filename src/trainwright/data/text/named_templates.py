"""Chat templates by name, each written after what its models' public documentation shows."""

from __future__ import annotations

_CHATML = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
_SYSTEM_FIRST = "{% if messages[0]['role'] == 'system' %}{% set before = messages[0]['content'] %}{% endif %}"


def _turns(each: str, prompt: str, first: str = "") -> str:
    """Return a template: what stands first, what becomes of each message, and what the assistant writes after."""
    return (
        first + "{% for message in messages %}" + each + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + prompt + "' }}{% endif %}"
    )  # fmt: skip


def _without_system(user: str, other: str, between: str) -> str:
    """Return what becomes of a message where there is no role for a system: what it says stands before the first
    user's."""
    return (
        "{% if message['role'] == 'user' %}"
        "{% set said = before + '" + between + "' + message['content'] if before and loop.index0 == 1 else "
        "message['content'] %}" + user + "{% elif message['role'] != 'system' %}" + other + "{% endif %}"
    )  # fmt: skip


NAMED_TEMPLATES = {
    # each turn between <|im_start|> and <|im_end|>
    "chatml": _turns(_CHATML, "<|im_start|>assistant\\n"),
    "plain": _turns(
        "{{ message['role'] + ': ' + message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}"
        "{% endif %}{{ '\\n' }}",
        "assistant: ",
    ),
    # huggingface.co/HuggingFaceH4/zephyr-7b-beta
    "zephyr": _turns(
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}", "<|assistant|>\\n"
    ),
    # llama.com/docs/model-cards-and-prompt-formats/meta-llama-3
    "llama3-instruct": _turns(
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + "
        "'<|eot_id|>' }}",
        "<|start_header_id|>assistant<|end_header_id|>\\n\\n",
        "{{ bos_token }}",
    ),
    # qwen.readthedocs.io: ChatML, with a system's message where the conversation has none
    "qwen2-instruct": _turns(
        _CHATML,
        "<|im_start|>assistant\\n",
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
        "{% endif %}",
    ),
    # ai.google.dev/gemma/docs/core/prompt-structure, which puts a system's instructions before the first user's
    "gemma2-it": _turns(
        _without_system(
            "{{ '<start_of_turn>user\\n' + said | trim + '<end_of_turn>\\n' }}",
            "{{ '<start_of_turn>model\\n' + message['content'] | trim + '<end_of_turn>\\n' }}",
            "\\n",
        ),
        "<start_of_turn>model\\n",
        _SYSTEM_FIRST + "{{ bos_token }}",
    ),
    # huggingface.co/microsoft/Phi-3-mini-4k-instruct
    "phi3-instruct": _turns(
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}", "<|assistant|>\\n"
    ),
    # huggingface.co/mistralai/Mixtral-8x7B-Instruct-v0.1
    "mistral-instruct": _turns(
        _without_system(
            "{{ '[INST] ' + said + ' [/INST]' }}", "{{ ' ' + message['content'] + eos_token }}", "\\n\\n"
        ),
        "",
        _SYSTEM_FIRST + "{{ bos_token }}",
    ),
}  # fmt: skip

OTHER_NAMES = {
    "chat_ml": "chatml", "llama3": "llama3-instruct", "qwen": "qwen2-instruct", "gemma": "gemma2-it",
    "gemma2": "gemma2-it", "phi": "phi3-instruct", "mistral": "mistral-instruct",
}  # fmt: skip
"""What Oumi and LLaMA-Factory call them besides."""

BY_TOKEN = {
    "<|start_header_id|>": "llama3-instruct", "<|im_start|>": "chatml", "<start_of_turn>": "gemma2-it",
    "<|end|>": "phi3-instruct", "[INST]": "mistral-instruct",
}  # fmt: skip
"""The template of a tokenizer that has none, by a token that it has."""
