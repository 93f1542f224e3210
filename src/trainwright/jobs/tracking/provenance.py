"""What a job ran: the commit of its code, what was changed since, and the versions of the installed packages."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainwright.jobs import commands

DIFF = "code.diff"
_PACKAGE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)\.(dist|egg)-info")
_MOST_FILES = 200
_LONGEST_DIFF = 1_000_000  # bytes
_GIT_SECONDS = 10.0


def tell(folder: Path, keep: Callable[[str, Any], None]) -> None:
    """Keep with a job what it runs, and in its folder what differs from the commit."""
    keep("versions", {"python": platform.python_version(), **versions()})
    code = of_code(folder_of_code())
    if code is None:
        return
    diff = code.pop("text")
    with suppress(OSError):  # a full disk is no reason not to train
        if diff:
            (folder / DIFF).write_bytes(diff)
        else:
            (folder / DIFF).unlink(missing_ok=True)
    keep("code", code)


def folder_of_code() -> Path:
    """Return where the code of this process lies: its script's folder; of our commands, and of modules that are
    installed, the folder that they were begun in."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not script or commands.is_ours(commands.of_this_process()):
        return Path.cwd()
    path = Path(script).absolute()
    return Path.cwd() if path.is_relative_to(sys.prefix) else path.parent


def of_code(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a folder's code, what files differ from it, and the difference as `text`, with its digest.

    Files that git does not know are named, and not kept. None where git, or a repository with a commit, is not there.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    top = os.fsdecode(_git(folder, "rev-parse", "--show-toplevel") or b"").strip()
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or b""
    changed = os.fsdecode(_git(folder, "status", "--porcelain") or b"").splitlines()
    diff = _git(folder, "diff", "HEAD") or b"" if changed else b""
    return {
        "commit": commit.decode().strip(), "branch": os.fsdecode(branch).strip(), "folder": top,
        "changed": [line[3:] for line in changed[:_MOST_FILES]],
        "diff": hashlib.sha256(diff).hexdigest() if diff else None, "text": diff[:_LONGEST_DIFF],
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of the installed packages, by the names of their folders: no file is opened."""
    found: dict[str, str] = {}
    for place in sys.path:
        with suppress(OSError):
            for name in os.listdir(place or "."):
                told = _PACKAGE.fullmatch(name)
                if told is not None:
                    found.setdefault(told["name"].lower().replace("_", "-"), told["version"])
    return dict(sorted(found.items()))


def _git(folder: Path, *words: str) -> bytes | None:
    """Return what git says; None where it is not there, or does not answer in time."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_GIT_SECONDS, stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
