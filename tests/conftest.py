"""Every test run tokenises anew and leaves nothing behind: what it keeps meanwhile is in a folder that goes with it."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and whatever a test starts, have that of the first process
    os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.gettempdir()  # `tmp_path` of tests that failed can be looked into
    # short, for sockets lie in it, and their addresses may have 104 characters
    _PLACE = tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True)
    os.chmod(_PLACE.name, 0o711)  # tests that become another user come through
    os.environ["TMPDIR"] = tempfile.tempdir = _PLACE.name
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache-")
os.environ["TRAINWRIGHT_HOME"] = tempfile.mkdtemp(prefix="jobs-")
os.environ["TRAINWRIGHT_JOBS"] = "off"  # tests of jobs switch it on

from trainwright.data.sources import reach  # noqa: E402 (after the environment is set)
from trainwright.errors import STOP_SIGNALS, is_foreign  # noqa: E402

# `make test` draws the same few inputs each time; HYPOTHESIS_PROFILE=torture, as `make torture` sets it, many new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=50)
settings.register_profile("torture", deadline=None, database=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_finish():
    """The libraries and the tests themselves stay to the end: nothing of them is looked through for garbage again."""
    gc.collect()
    gc.freeze()


def _traces():
    handlers = {name: (signal.getsignal(name), is_foreign(name)) for name in STOP_SIGNALS}
    names = {name: value for name, value in os.environ.items() if name.startswith("TRAINWRIGHT_")}
    return Path.cwd(), handlers, names


@pytest.fixture(autouse=True)
def leaves_no_trace():
    """What a test leaves behind, a later one meets: a job that it seems to belong to, a handler, another folder."""
    before = _traces()
    yield
    reach.ask_again()
    if is_foreign(signal.SIGQUIT):  # pygame sets one where it is imported, as gymnasium does to draw
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    assert _traces() == before
