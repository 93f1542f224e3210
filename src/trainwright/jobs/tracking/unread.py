"""Parameters that were given to a decorated script and that it never asked for."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainwright.errors import did_you_mean
from trainwright.jobs.tracking.params import Params

_OWN_WAY = re.compile(r"\b(argv|ArgumentParser|HfArgumentParser|click|typer|fire|hydra|absl)\b")


def told(params: Params, function: Callable[..., Any]) -> str | None:
    """Return a sentence on the parameters that a job was given and never read; None where there are none, or where its
    script may have read the command line in a way of its own.
    """
    names = params.never_read()
    if not names or any(_OWN_WAY.search(text) for text in _sources(function)):
        return None
    hints = "".join(did_you_mean(name, params.asked_in_vain()) for name in names)
    return f"Never read: {', '.join(names)}.{hints}"


def _sources(function: Callable[..., Any]) -> list[str]:
    """Return the texts of the script and of the file that holds a function of it."""
    files = {getattr(sys.modules.get("__main__"), "__file__", None)}
    with suppress(TypeError):
        files.add(inspect.getsourcefile(inspect.unwrap(function)))
    found = []
    for file in files - {None}:
        with suppress(OSError, ValueError):
            found.append(Path(str(file)).read_text(encoding="utf-8"))
    return found
