"""Conversations as text, for any chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainwright.data.text.named_templates import BY_TOKEN, NAMED_TEMPLATES, OTHER_NAMES
from trainwright.errors import ConfigError, DataError, did_you_mean

Message = dict[str, Any]

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTINEL = "\u2402trainwright\u2403"
AUTO = "auto"


def template_text(given: str) -> str:
    """Return a chat template: one of the named ones, a file's, that of a tokenizer's folder, or the text itself.

    Raises:
        ConfigError: a file or name that is not there.
    """
    name = OTHER_NAMES.get(given.lower(), given.lower())
    if name in NAMED_TEMPLATES:
        return NAMED_TEMPLATES[name]
    if "{%" in given or "{{" in given:
        return given
    path = Path(given).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if path.is_dir():
        from transformers import AutoTokenizer

        return str(AutoTokenizer.from_pretrained(path).get_chat_template())
    raise ConfigError(
        f"chat_template '{given}' is no file, no folder of a tokenizer and no known name "
        f"({', '.join([*NAMED_TEMPLATES, AUTO])}).{did_you_mean(given, [*NAMED_TEMPLATES, *OTHER_NAMES, AUTO])}"
    )


def auto(tokenizer: Any) -> str | None:
    """Return the tokenizer's own chat template, or where it has none the one whose tokens it has; None for neither."""
    if getattr(tokenizer, "chat_template", None):
        return str(tokenizer.get_chat_template())
    vocabulary = tokenizer.get_vocab()
    return next((NAMED_TEMPLATES[name] for token, name in BY_TOKEN.items() if token in vocabulary), None)


def has_marks(tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template marks what the assistant writes by `{% generation %}`.

    Raises:
        ConfigError: it has no chat template.
    """
    check_template(tokenizer)
    return bool(_MARKS.search(tokenizer.get_chat_template()))


def check_template(tokenizer: Any) -> None:
    """Raise a ConfigError where there is no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "The data holds conversations, but the tokenizer has no chat template. Give model.chat_template: a file, "
            f"or one of {', '.join(NAMED_TEMPLATES)}."
        )


@lru_cache(maxsize=8)
def reads_parts(tokenizer: Any, template: str) -> bool:
    """Whether a chat template, as those of models of images, reads texts in parts alone: plain ones it loses without a
    word, or refuses."""
    return not _says(tokenizer, template, _SENTINEL) and _says(
        tokenizer, template, [{"type": "text", "text": _SENTINEL}]
    )


def _says(tokenizer: Any, template: str, content: Any) -> bool:
    from jinja2.exceptions import TemplateError

    try:
        return _SENTINEL in tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False
        )
    except (TemplateError, TypeError):
        return False


def as_read(tokenizer: Any, messages: Sequence[Message], tools: Any = None) -> list[Message]:
    """Return a conversation as its tokenizer's chat template reads it: texts plain or in parts."""
    if not reads_parts(tokenizer, tokenizer.get_chat_template(tools=tools)):
        return list(messages)
    return [
        {**one, "content": [{"type": "text", "text": one["content"]}]} if isinstance(one.get("content"), str) else one
        for one in messages
    ]


def render(tokenizer: Any, messages: Sequence[Message], prompt: bool = False, **settings: Any) -> str:
    """Return a conversation as text; with `prompt`, up to where the assistant would begin to write.

    Raises:
        ConfigError: there is no template.
        DataError: the template refuses the conversation.
    """
    from jinja2.exceptions import TemplateError

    check_template(tokenizer)
    try:
        text: str = tokenizer.apply_chat_template(
            as_read(tokenizer, messages, settings.get("tools")),
            tokenize=False,
            add_generation_prompt=prompt,
            **settings,
        )
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise DataError(f"The chat template refuses a conversation of the roles {roles}: {error}.") from None
    return text
