"""Commands as a person types them, each a process of its own with the settings that a person has."""

from __future__ import annotations

import os

from tests import forked


def settle(folder, monkeypatch):
    """Go into an empty folder, with a home for jobs in it and everything else as it is by default."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TRAINWRIGHT_JOBS", raising=False)
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(folder / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def typed(command, given=None, code=0):
    """Return what a command, trainwright or python, prints; of one that fails, what it says of that."""
    name, *words = command.split()
    before = {"trainwright": ["-m", "trainwright.cli.main"], "python": []}[name]
    done = forked.run([*before, *words], cwd=os.getcwd(), given=given)
    assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr
