"""What the list of jobs says of a home."""

from __future__ import annotations

from trainwright.jobs.store.store import Store
from trainwright.jobs.worker import health


def listed(home, monkeypatch):
    """Return the jobs of a home, oldest first, once what their journals still hold is moved into the database."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(home))
    store = Store()
    health.sweep(store)
    jobs = store.jobs()
    store.close()
    return jobs[::-1]
