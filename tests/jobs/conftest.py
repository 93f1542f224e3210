"""Every test has a home of its own; those of the store run on SQLite and, where there is one, on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.jobs import postgres
from trainwright.jobs.store.store import Store


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder for jobs, tracked in an SQLite file."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINWRIGHT_JOBS", "")
    monkeypatch.delenv("TRAINWRIGHT_DB", raising=False)
    for name in ("TRAINWRIGHT_JOB_ID", "TRAINWRIGHT_JOB_OWNER", "TRAINWRIGHT_JOB_RESUME", "TRAINWRIGHT_JOB_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_loop_of_the_browser(request):
    """A test without a page meets no running event loop: playwright's goes on in the thread of the tests."""
    if "page" in request.fixturenames or "browser" in request.fixturenames:
        yield
        return
    before = asyncio.events._get_running_loop()
    asyncio.events._set_running_loop(None)
    yield
    asyncio.events._set_running_loop(before)


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL of these tests' own."""
    with postgres.running() as address:
        yield address


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request, home, monkeypatch):
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{home / 'jobs.db'}"
    url = request.getfixturevalue("server").new_database(f"jobs_{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("TRAINWRIGHT_DB", url)
    return url


@pytest.fixture
def store(database):
    """An open store."""
    made = Store(database)
    yield made
    made.close()


@pytest.fixture(scope="session")
def browser():
    """Chromium: one for all tests of a process."""
    from tests.jobs import browsing

    with browsing.browsing() as made:
        yield made


@pytest.fixture(scope="session")
def told(tmp_path_factory, browser):
    """The link of a page beside jobs of all kinds, and a browser to open it."""
    from tests.jobs import browsing
    from tests.jobs.told import tell

    home = tmp_path_factory.mktemp("told")
    tell(home)
    with browsing.serving(home) as link:
        yield link, browser
