"""Commands as a person types them, each a process of its own with the settings that a person has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def settle(folder, monkeypatch):
    """Go into an empty folder, with a home for jobs in it and everything else as it is by default."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TRAINWRIGHT_JOBS", raising=False)
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(folder / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def typed(command, given=None, code=0):
    """Return what a command prints; of one that fails, what it says of that."""
    name, *words = command.split()
    done = subprocess.run(
        [str(Path(sys.executable).parent / name), *words], input=given, capture_output=True, text=True, env=os.environ,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr
