"""Python code that passes tests, run apart from this machine's files and network."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from functools import cache
from pathlib import Path

from trainwright.errors import ConfigError

_FENCED = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)
_SANDBOX = Path(__file__).with_name("sandbox.py")
_LATER = 2.0  # seconds that Python may take to begin


def python_tests(completion: str, tests: str, seconds: float = 2.0, megabytes: int = 256) -> float:
    """Return 1.0 if the tests pass after a completion's code: statements, such as `assert add(1, 2) == 3`.

    Both run in a process without network and without any file but Python's library. It is meant for what a model
    writes by mistake or to please the tests, not for an attacker.

    Args:
        completion: code, or a text with code in ``` marks, the last of which counts.
        tests: run after it.
        seconds: that both may take.
        megabytes: of memory.

    Raises:
        ConfigError: this system cannot run code apart.
    """
    check_system()
    fenced = _FENCED.findall(completion)
    return float(_passes(f"{fenced[-1] if fenced else completion}\n{tests}\n", seconds, megabytes))


@cache
def check_system() -> None:
    """Raise a ConfigError where code cannot be run apart from this machine's files and network."""
    if _passes("", 5.0, 256):
        return
    raise ConfigError(
        "This system cannot run code apart from its files and network (Linux 5.13 with Landlock and user namespaces "
        "can), so python_tests is refused. Run it in a container of your own, by a reward function of yours."
    )


def _passes(code: str, seconds: float, megabytes: int) -> bool:
    word = secrets.token_hex(16)
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_SANDBOX), str(seconds), str(megabytes)],
            input=f"{word}\n{code}",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=seconds + _LATER,
            env={},
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout == word
