"""Every test run tokenises anew: its caches are folders of their own."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache-")
os.environ["TRAINWRIGHT_HOME"] = tempfile.mkdtemp(prefix="jobs-")
os.environ["TRAINWRIGHT_JOBS"] = "off"  # tests of jobs switch it on

from trainwright.errors import STOP_SIGNALS  # noqa: E402 (after the environment is set)


def _traces():
    handlers = {name: signal.getsignal(name) for name in STOP_SIGNALS}
    names = {name: value for name, value in os.environ.items() if name.startswith("TRAINWRIGHT_")}
    return Path.cwd(), handlers, names


@pytest.fixture(autouse=True)
def leaves_no_trace():
    """What a test leaves behind, a later one meets: a job that it seems to belong to, a handler, another folder."""
    before = _traces()
    yield
    assert _traces() == before
