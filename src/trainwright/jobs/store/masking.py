"""What of a job is shown to no one: passwords, keys and tokens among its parameters, told by name or by their look."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainwright.jobs.store.rows import Job

MASK = "••••••"
_SECRET = frozenset("password passwords passwd passphrase pwd secret secrets credential credentials apikey "
                    "authorization bearer".split())  # fmt: skip
_KEYS = frozenset("api access private secret signing encryption account auth ssh".split())
# words before `token` that make it one of a tokenizer, or a number of them
_OF_TEXT = frozenset(
    "bos eos pad unk sep cls mask special stop start end begin image audio video vision text time speech think prompt "
    "response assistant user system tool split additional extra next new per max min num first last decoder forced "
    "suppress boundary delimiter placeholder target source".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# keys of Hugging Face, OpenAI and Anthropic, GitHub, GitLab, Slack, AWS, Google; JSON web tokens
_LOOK = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[pousr]_\w{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
)
_IN_ADDRESS = re.compile(r"(\w://[^/\s:@]*:)[^/\s@]+(?=@)")  # postgresql://user:password@host


def is_secret(name: str, value: Any) -> bool:
    """Whether a parameter's name says that its value is a secret: `hf_token`, `db.password`, but not `eos_token`."""
    if value is None or value == "" or isinstance(value, bool):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    if not _SECRET.isdisjoint(words):
        return True
    before, last = (["", "", *words])[-2:]
    if last in ("key", "keys"):
        return before in _KEYS
    return last == "token" and before not in _OF_TEXT and not _is_number(value)


def shown(name: str, value: Any) -> Any:
    """Return a parameter's value as it may be seen."""
    if is_secret(name, value):
        return MASK
    if isinstance(value, str):
        return _IN_ADDRESS.sub(rf"\1{MASK}", _LOOK.sub(MASK, value))
    if isinstance(value, Mapping):
        return {key: shown(str(key), one) for key, one in value.items()}
    return each(name, value) if isinstance(value, list | tuple) else value


def each(name: str, values: Sequence[Any]) -> list[Any]:
    """Return several values of a parameter as they may be seen."""
    return [shown(name, value) for value in values]


def params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as they may be seen."""
    return {name: shown(name, value) for name, value in values.items()}


def hidden(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that are not shown as they are."""
    return [name for name, value in params(values).items() if value != values[name]]


def command(words: Sequence[str]) -> list[str]:
    """Return a command as it may be seen: of `--name=value`, `--name value` and `name=value` the values as above."""
    found, before = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        found.append(f"{name}={shown(name, value)}" if equals else shown(before, word))
        before = word if word.startswith("-") and not equals else ""
    return found


def job(values: Job) -> Job:
    """Return a job with parameters, data and command as they may be seen."""
    return {**values, "params": params(values["params"]), "data": params(values["data"]),
            "command": command(values["command"])}  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or str(value).replace(".", "", 1).isdecimal()
